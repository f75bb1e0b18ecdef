//! A device as a front end reaches it: what that has set up, checked, and the device that works on
//! it.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::events::{self, Calls};
use super::memory::MemoryTable;
use super::shown;
use crate::devices::virtio::queue::rings_are_in_memory;
use crate::devices::virtio::{Activation, ActiveQueue, Interrupt, VirtioDevice};

/// The feature bit that announces protocol features; no driver sees it.
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// The maximum size of a configuration space (`VHOST_USER_MAX_CONFIG_SIZE`).
const MAX_CONFIG: u32 = 256;

/// The largest size of a ring, in descriptors: QEMU's virtio-mmio offers its driver this size for
/// every queue, whatever the device says (`VIRTQUEUE_MAX_SIZE`).
const MAX_SIZE: u16 = 1024;

/// Where a device finds the machine's memory.
pub(crate) enum Memory {
    /// Here: it was made by this process.
    Known(Arc<GuestMemoryMmap>),
    /// Where the front end shows it.
    Shown,
}

/// A device as a front end reaches it.
pub(super) struct Backend {
    device: Box<dyn VirtioDevice>,
    /// The machine's memory; `None` as long as none was shown.
    memory: Option<Arc<GuestMemoryMmap>>,
    is_shown: bool,
    table: MemoryTable,
    calls: Arc<Calls>,
    /// The features that the driver accepted, once it has.
    pub(super) features: Option<u64>,
    rings: Vec<Ring>,
    /// How many of the rings, counted from the first, the device needs.
    needed: usize,
    /// Whether QEMU asks for the configuration space. For some kinds it has its own, and complains
    /// if one is offered.
    gives_config: bool,
    active: bool,
}

/// A queue as QEMU has set it up so far.
#[derive(Default)]
struct Ring {
    size: u16,
    /// Descriptor table, available ring, used ring.
    addresses: Option<[GuestAddress; 3]>,
    /// The index in both rings from which to continue.
    base: u16,
    kick: Option<EventFd>,
    enabled: bool,
}

impl Ring {
    fn is_ready(&self) -> bool {
        self.enabled && self.size > 0 && self.addresses.is_some() && self.kick.is_some()
    }

    /// Builds the queue, if it could work: its rings are aligned and lie wholly in guest memory.
    fn build(&self, memory: &GuestMemoryMmap) -> Option<Queue> {
        let [descriptors, available, used] = self.addresses?;
        let mut queue = Queue::new(MAX_SIZE).ok()?;
        queue.try_set_size(self.size).ok()?;
        queue.try_set_desc_table_address(descriptors).ok()?;
        queue.try_set_avail_ring_address(available).ok()?;
        queue.try_set_used_ring_address(used).ok()?;
        queue.set_next_avail(self.base);
        queue.set_next_used(self.base);
        queue.set_ready(true);
        rings_are_in_memory(&queue, memory).then_some(queue)
    }

    /// Returns the queue as a device gets it; a queue that isn't ready if this ring isn't.
    fn activate(&self, memory: &GuestMemoryMmap, event_index: bool) -> Result<ActiveQueue> {
        let (Some(kick), true) = (&self.kick, self.is_ready()) else {
            let queue = Queue::new(MAX_SIZE).map_err(|_| Error::InvalidParam)?;
            let notify = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
            let notify = notify.map_err(Error::ReqHandlerError)?;
            return Ok(ActiveQueue { queue, notify });
        };
        let mut queue = self
            .build(memory)
            .ok_or(Error::InvalidOperation("a ring isn't in guest memory"))?;
        queue.set_event_idx(event_index);
        let notify = kick.try_clone().map_err(Error::ReqHandlerError)?;
        Ok(ActiveQueue { queue, notify })
    }

    /// Returns the index from which to continue: a device that has stopped has answered everything
    /// that it took.
    fn position(&self, memory: &GuestMemoryMmap) -> u16 {
        let used = self.addresses.map(|[_, _, used]| used);
        used.and_then(|used| used.checked_add(2))
            .and_then(|index| memory.read_obj::<u16>(index).ok())
            .map_or(self.base, u16::from_le)
    }
}

impl Backend {
    /// Makes a backend for `device`. The first `handed_over` of its queues come from QEMU, which
    /// keeps the ones after them. It works once the first `needed` of those are there.
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        handed_over: usize,
        needed: usize,
        gives_config: bool,
        memory: Memory,
        calls: Arc<Calls>,
    ) -> Backend {
        let count = device.queue_sizes().len().min(handed_over);
        let (memory, is_shown) = match memory {
            Memory::Known(memory) => (Some(memory), false),
            Memory::Shown => (None, true),
        };
        Backend {
            device,
            memory,
            is_shown,
            table: MemoryTable::default(),
            calls,
            features: None,
            rings: (0..count).map(|_| Ring::default()).collect(),
            needed,
            gives_config,
            active: false,
        }
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        self.rings
            .get_mut(index as usize)
            .ok_or(Error::InvalidParam)
    }

    /// Returns a ring that isn't in use, and may be set up.
    fn idle_ring(&mut self, index: u32) -> Result<&mut Ring> {
        let active = self.active;
        let ring = self.ring(index)?;
        if active && ring.is_ready() {
            return Err(Error::InvalidOperation("a ring at work can't be changed"));
        }
        Ok(ring)
    }

    /// Changes a ring in a way that affects whether it is ready. If the device works on other
    /// rings, it stops and continues with those that are ready then.
    fn change_ring(&mut self, index: u32, change: impl FnOnce(&mut Ring)) -> Result<()> {
        self.ring(index)?;
        self.deactivate();
        change(self.ring(index)?);
        self.activate_if_ready()
    }

    /// Starts the device once all the rings that it needs are there.
    fn activate_if_ready(&mut self) -> Result<()> {
        if self.active || !self.rings.iter().take(self.needed).all(Ring::is_ready) {
            return Ok(());
        }
        let features = self.features.ok_or(Error::InvalidOperation(
            "a ring is enabled before features are agreed on",
        ))?;
        let event_index = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let memory = self.memory.as_ref().ok_or(Error::InvalidOperation(
            "a ring is enabled before there is memory",
        ))?;
        let mut queues = Vec::with_capacity(self.device.queue_sizes().len());
        for ring in &self.rings {
            queues.push(ring.activate(memory, event_index)?);
        }
        let activation = Activation {
            memory: Arc::clone(memory),
            queues,
            interrupt: Arc::clone(&self.calls) as Arc<dyn Interrupt>,
            features,
        };
        self.device
            .activate(activation)
            .map_err(|e| Error::ReqHandlerError(std::io::Error::other(e)))?;
        self.active = true;
        Ok(())
    }

    /// Stops the device. It may be activated again, and then continues where it has stopped.
    fn deactivate(&mut self) {
        if self.active {
            self.device.reset();
            self.active = false;
            let Some(memory) = &self.memory else {
                return;
            };
            for ring in self.rings.iter_mut().filter(|ring| ring.is_ready()) {
                ring.base = ring.position(memory);
            }
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.deactivate();
    }
}

/// Refuses a request that belongs to a protocol feature which isn't offered.
fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation(
        "a request that nobody offered to serve",
    ))
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        not_offered()
    }

    fn reset_device(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features() | PROTOCOL_FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let version_1 = 1 << VIRTIO_F_VERSION_1;
        let accepted = features & !PROTOCOL_FEATURES;
        if accepted & !self.device.features() != 0 || accepted & version_1 == 0 {
            return Err(Error::InvalidOperation(
                "features that the device doesn't offer",
            ));
        }
        // QEMU sends them once for each pair of a network device's queues.
        if self.active && self.features != Some(accepted) {
            return Err(Error::InvalidOperation("other features than at the start"));
        }
        if features & PROTOCOL_FEATURES == 0 {
            // Rings would then be enabled from the start, which devices have no state for.
            return Err(Error::InvalidOperation("protocol features aren't accepted"));
        }
        self.features = Some(accepted);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let mut features = VhostUserProtocolFeatures::MQ;
        features.set(VhostUserProtocolFeatures::CONFIG, self.gives_config);
        Ok(features)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        // What isn't offered is refused when it is used.
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    /// QEMU may send the table again while the device runs: it does so when the guest moves ROMs
    /// around. The device continues with the memory that it has.
    fn set_mem_table(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        match &self.memory {
            Some(memory) if !self.is_shown => {
                self.table = MemoryTable::check(regions, &files, memory)?;
            }
            _ => {
                let table = MemoryTable::of(regions)?;
                if !self.active {
                    self.memory = Some(Arc::new(shown::map(regions, files)?));
                }
                self.table = table;
            }
        }
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        let ring = self.idle_ring(index)?;
        ring.size = u16::try_from(size)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= MAX_SIZE)
            .ok_or(Error::InvalidOperation(
                "a ring of a size that isn't offered",
            ))?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        if !flags.is_empty() {
            return not_offered();
        }
        let [Some(descriptors), Some(available), Some(used)] =
            [descriptors, available, used].map(|address| self.table.translate(address))
        else {
            return Err(Error::InvalidOperation("a ring isn't in the memory table"));
        };
        self.idle_ring(index)?.addresses = Some([descriptors, available, used]);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.idle_ring(index)?.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    /// Gives a ring back to QEMU, which takes it when the driver resets its device.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.change_ring(index, |ring| ring.kick = None)?;
        self.calls.set(index as usize, None);
        let base = self.ring(index)?.base;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let kick = file.ok_or(Error::InvalidOperation("a ring without notifications"))?;
        let kick = events::event(kick)?;
        self.idle_ring(index.into())?;
        self.change_ring(index.into(), |ring| ring.kick = Some(kick))
    }

    /// Sets a ring's event, which may change while the device runs: QEMU uses another one while an
    /// interrupt is masked.
    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.ring(index.into())?;
        self.calls
            .set(index.into(), file.map(events::event).transpose()?);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _file: Option<File>) -> Result<()> {
        // An error ends the machine: nobody needs an event for that.
        self.ring(index.into()).map(drop)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        if self.ring(index)?.enabled == enable {
            return Ok(());
        }
        self.change_ring(index, |ring| ring.enabled = enable)
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        if offset.checked_add(size).is_none_or(|end| end > MAX_CONFIG) {
            return Err(Error::InvalidParam);
        }
        let mut bytes = vec![0; size as usize];
        self.device.read_config(offset.into(), &mut bytes);
        Ok(bytes)
    }

    fn set_config(
        &mut self,
        offset: u32,
        bytes: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> Result<()> {
        self.device.write_config(offset.into(), bytes);
        Ok(())
    }

    fn set_gpu_socket(&mut self, _socket: GpuBackend) -> Result<()> {
        not_offered()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        not_offered()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        not_offered()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        not_offered()
    }

    fn add_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion, _file: File) -> Result<()> {
        not_offered()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        not_offered()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        not_offered()
    }
}

#[cfg(test)]
mod tests;
