//! Tests a device whose rings come and go, in pairs.

use std::io::{Read, Write};

use super::*;
use crate::devices::virtio::ActivateError;

/// A device with two pairs of queues that answers nothing, and reports which of them it was given,
/// and at which position.
struct Pairs(mpsc::Sender<Option<Vec<Option<u16>>>>);

impl VirtioDevice for Pairs {
    fn device_type(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        BASIC_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[128; 5]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> std::result::Result<(), ActivateError> {
        let queues = activation.queues.iter().map(|active| &active.queue);
        let given = queues.map(|queue| queue.ready().then(|| queue.next_avail()));
        self.0.send(Some(given.collect())).unwrap();
        Ok(())
    }

    fn reset(&mut self) {
        let _ = self.0.send(None);
    }
}

/// Sets a ring of size 128 up and starts it.
fn set_up(qemu: &mut Qemu, index: usize) {
    qemu.front.set_vring_num(index, 128).unwrap();
    qemu.front.set_vring_base(index, 0).unwrap();
    let address = qemu.address(index);
    qemu.front.set_vring_addr(index, &address).unwrap();
    let kick = qemu.queues[index].notification();
    qemu.front.set_vring_kick(index, kick).unwrap();
}

/// Sends the request that enables a ring, the way QEMU's network devices begin: before features are
/// negotiated. Newer versions want an answer.
fn enable_early(mut theirs: &UnixStream) {
    theirs.set_read_timeout(Some(TIMEOUT)).unwrap();
    for (index, flags) in [(0, 1), (1, 9)] {
        let request = [18, flags, 8, index, 1].map(u32::to_ne_bytes);
        theirs.write_all(request.as_flattened()).unwrap();
    }
    let mut answer = [[0; 4]; 5];
    theirs.read_exact(answer.as_flattened_mut()).unwrap();
    assert_eq!(answer.map(u32::from_ne_bytes), [18, 5, 8, 0, 0]);
    theirs.set_read_timeout(None).unwrap();
}

#[test]
fn pairs_of_rings_come_and_go() {
    let (tell, told) = mpsc::channel();
    let next = || told.recv_timeout(TIMEOUT).unwrap();
    let device = Box::new(Pairs(tell));
    let mut qemu = Qemu::connect_with(device, 4, 2, enable_early);
    assert_eq!(qemu.front.get_queue_num().unwrap(), 4);
    qemu.set_features_and_memory();
    for index in [0, 1] {
        assert!(told.try_recv().is_err());
        set_up(&mut qemu, index);
    }
    assert_eq!(next(), Some(vec![Some(0), Some(0), None, None]));

    // QEMU sends the features for each pair. A ring that isn't enabled changes nothing.
    let features = FEATURES | PROTOCOL_FEATURES;
    qemu.front.set_features(features).unwrap();
    for index in [2, 3] {
        set_up(&mut qemu, index);
    }
    // The other rings continue where the device has stopped, as a ring's index says.
    let [_, _, used] = qemu.queues[0].rings();
    let index = GuestAddress(used + 2);
    qemu.memory.write_obj(7u16, index).unwrap();
    qemu.front.set_vring_enable(2, true).unwrap();
    qemu.front.set_vring_enable(2, true).unwrap();
    qemu.front.set_vring_enable(3, true).unwrap();
    let last = std::iter::from_fn(|| told.recv_timeout(TIMEOUT).ok())
        .find(|given| matches!(given, Some(given) if given[3].is_some()));
    assert_eq!(last, Some(Some(vec![Some(7), Some(0), Some(0), Some(0)])));

    qemu.front.set_vring_enable(3, false).unwrap();
    assert_eq!(next(), None);
    assert_eq!(next(), Some(vec![Some(7), Some(0), Some(0), None]));
    // Without its first pair it doesn't work.
    assert_eq!(qemu.front.get_vring_base(0).unwrap(), 7);
    assert_eq!(next(), None);
    qemu.front.set_vring_enable(3, true).unwrap();
    assert!(told.try_recv().is_err());
    assert_eq!(*qemu.failure.lock().unwrap(), None);
}
