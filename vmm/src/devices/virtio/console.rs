//! The console device (virtio 1.3, section 5.3) with one port: `hvc0` in the guest.
//!
//! What the guest writes goes to a file, and what is read from another goes to the guest. Neither
//! is waited for: a full pipe delays only the guest's queue. What the guest can make the host
//! allocate is a buffer of [`PIECE`] bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vm_memory::GuestMemoryMmap;

use super::buffers::Buffers;
use super::queue::{self, BASIC_FEATURES, DeviceQueue, QueueError};
use super::thread::{DeviceThread, Failure, Stop};
use super::{ActivateError, Activation, VirtioDevice};
use crate::wait::Wait;

/// How much is read or written at a time. A pipe that is ready for writing accepts this much
/// without blocking (`PIPE_BUF`).
const PIECE: usize = 4096;

/// Receive and transmit queue.
const QUEUE_SIZES: [u16; 2] = [64, 64];

/// The console device.
pub struct Console {
    input: Option<Arc<File>>,
    output: Arc<File>,
    thread: Option<DeviceThread>,
}

impl Console {
    /// Makes a console that reads the guest's input from `input`, if there is one, and writes the
    /// guest's output to `output`. At the end of `input` the guest gets no more; after an error of
    /// `output` the guest's output is dropped.
    pub fn new(input: Option<File>, output: File) -> Console {
        Console {
            input: input.map(Arc::new),
            output: Arc::new(output),
            thread: None,
        }
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        BASIC_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// All its fields belong to features that aren't offered.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let [receive, transmit] = queue::start_queues(activation)?;
        let mut worker = Worker {
            receive,
            transmit,
            input: self.input.clone(),
            output: Some(Arc::clone(&self.output)),
        };
        let work = move |stop: &Stop| worker.run(&memory, stop);
        self.thread = Some(DeviceThread::spawn("console", interrupt, work)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.thread = None;
    }
}

/// What the console can be woken by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Stop,
    /// The driver has buffers for input.
    Buffers,
    /// The driver has output.
    Chains,
    Input,
    Output,
}

struct Worker {
    receive: DeviceQueue,
    transmit: DeviceQueue,
    input: Option<Arc<File>>,
    output: Option<Arc<File>>,
}

impl Worker {
    fn run(&mut self, memory: &GuestMemoryMmap, stop: &Stop) -> Result<(), Failure> {
        // The guest's output that `output` hasn't accepted: the chain's head and its rest.
        let mut saying: Option<(u16, Buffers<'_>)> = None;
        // The guest has no buffer for input.
        let mut starved = false;
        while !stop.requested() {
            let mut wait = Wait::with_capacity(5);
            wait.readable(Event::Stop, stop.event());
            wait.readable(Event::Buffers, self.receive.notify());
            wait.readable(Event::Chains, self.transmit.notify());
            if let Some(input) = self.input.as_deref().filter(|_| !starved) {
                wait.readable(Event::Input, input);
            }
            if let Some(output) = self.output.as_deref().filter(|_| saying.is_some()) {
                wait.add(Event::Output, output, libc::POLLOUT);
            }
            let ready = wait.wait()?;
            if ready.has(Event::Buffers) {
                self.receive.acknowledge();
                starved = false;
            }
            if ready.has(Event::Chains) {
                self.transmit.acknowledge();
            }
            if ready.has(Event::Input) {
                starved = !self.hear(memory)?;
            }
            if ready.has(Event::Output)
                && let Some((_, rest)) = &mut saying
            {
                self.say(rest);
            }
            self.take_chains(memory, &mut saying, stop)?;
        }
        Ok(())
    }

    /// Gives the guest the available input. Returns false if it has no buffer for it.
    fn hear(&mut self, memory: &GuestMemoryMmap) -> Result<bool, Failure> {
        let mut available = self.receive.pop(memory)?;
        if available.is_none() && self.receive.resume_notifications()? {
            available = self.receive.pop(memory)?;
        }
        let Some(mut chain) = available else {
            return Ok(false);
        };
        if chain.writable.is_empty() || !chain.readable.is_empty() {
            let problem = "is no buffer for input";
            return Err(self.receive.bad_chain(chain.head, problem).into());
        }
        let mut piece = [0; PIECE];
        let room = chain.writable.len().min(PIECE);
        let count = match self.input.as_deref() {
            Some(mut input) => match input.read(&mut piece[..room]) {
                Err(error) if retried(&error) => {
                    self.receive.unpop();
                    return Ok(true);
                }
                // An error is the end of it, too.
                outcome => outcome.unwrap_or(0),
            },
            None => 0,
        };
        if count == 0 {
            self.input = None;
            self.receive.unpop();
            return Ok(true);
        }
        chain.writable.write(&piece[..count]);
        self.receive.push(chain.head, count)?;
        self.receive.signal()?;
        Ok(true)
    }

    /// Writes a piece, some of which `output` is ready to accept.
    fn say(&mut self, rest: &mut Buffers<'_>) {
        let Some(mut output) = self.output.as_deref() else {
            return;
        };
        let mut piece = [0; PIECE];
        let length = rest.peek(&mut piece);
        match output.write(&piece[..length]) {
            Ok(count) if count > 0 => {
                rest.take(count);
            }
            Err(error) if retried(&error) => {}
            _ => self.output = None,
        }
    }

    /// Returns the chain that has been written, and takes the next one that has output.
    fn take_chains<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        saying: &mut Option<(u16, Buffers<'m>)>,
        stop: &Stop,
    ) -> Result<(), QueueError> {
        while !stop.requested() {
            if let Some((head, rest)) = saying {
                if !rest.is_empty() && self.output.is_some() {
                    break;
                }
                self.transmit.push(*head, 0)?;
                *saying = None;
            }
            match self.transmit.pop(memory)? {
                Some(chain) => *saying = Some((chain.head, chain.readable)),
                None if self.transmit.resume_notifications()? => {}
                None => break,
            }
        }
        self.transmit.signal()
    }
}

fn retried(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::devices::virtio::testing::*;

    const RX: usize = 0;
    const TX: usize = 1;

    /// Makes a console whose ends are pipes: the machine, the guest's input, the guest's output.
    fn console() -> (Machine<Console>, io::PipeWriter, io::PipeReader) {
        let (input, to_guest) = io::pipe().unwrap();
        let (from_guest, output) = io::pipe().unwrap();
        let file = |end: OwnedFd| File::from(end);
        let device = Console::new(Some(file(input.into())), file(output.into()));
        (Machine::new(device), to_guest, from_guest)
    }

    #[test]
    fn the_guest_is_heard() {
        let (mut machine, _to_guest, mut from_guest) = console();
        machine.write(BUFFERS, b"hello, world");
        machine.queues[TX].run(&[(BUFFERS, 5, false), (BUFFERS + 5, 7, false)]);
        let mut said = [0; 12];
        from_guest.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello, world");
    }

    #[test]
    fn the_guest_hears() {
        let (mut machine, mut to_guest, _from_guest) = console();
        // Before there is a buffer, and afterwards.
        to_guest.write_all(b"early").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(machine.queues[RX].run(&[(BUFFERS, 100, true)]), 5);
        assert_eq!(machine.read(BUFFERS, 5), b"early");
        machine.queues[RX].add(&[(BUFFERS, 3, true)]);
        machine.queues[RX].add(&[(BUFFERS + 3, 100, true)]);
        machine.queues[RX].notify();
        to_guest.write_all(b"later").unwrap();
        assert_eq!(machine.queues[RX].used().1, 3);
        assert_eq!(machine.queues[RX].used().1, 2);
        assert_eq!(machine.read(BUFFERS, 5), b"later");
    }

    #[test]
    fn the_end_of_the_input_is_no_end_of_the_console() {
        let (mut machine, to_guest, mut from_guest) = console();
        drop(to_guest);
        machine.queues[RX].add(&[(BUFFERS, 100, true)]);
        machine.queues[RX].notify();
        machine.write(BUFFERS + 0x1000, b"on");
        machine.queues[TX].run(&[(BUFFERS + 0x1000, 2, false)]);
        let mut said = [0; 2];
        from_guest.read_exact(&mut said).unwrap();
        assert_eq!(machine.queues[RX].try_used(), None);
    }

    #[test]
    fn a_full_pipe_holds_the_guest_up_and_loses_nothing() {
        let (mut machine, _to_guest, mut from_guest) = console();
        let size = 1 << 20;
        let data: Vec<u8> = (0..size).map(|n: u32| (n / 7) as u8).collect();
        machine.write(BUFFERS, &data);
        let head = machine.queues[TX].add(&[(BUFFERS, size, false)]);
        machine.queues[TX].notify();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(machine.queues[TX].try_used(), None);
        let mut said = vec![0; size as usize];
        from_guest.read_exact(&mut said).unwrap();
        assert!(said == data);
        assert_eq!(machine.queues[TX].used(), (head, 0));
    }

    #[test]
    fn a_reset_does_not_wait_for_a_full_pipe() {
        let (mut machine, _to_guest, _from_guest) = console();
        machine.queues[TX].add(&[(BUFFERS, 1 << 20, false)]);
        machine.queues[TX].notify();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let began = std::time::Instant::now();
        machine.device.reset();
        assert!(began.elapsed() < TIMEOUT / 10);
    }

    #[test]
    fn what_nobody_takes_is_dropped() {
        let (mut machine, _to_guest, from_guest) = console();
        drop(from_guest);
        for _ in 0..3 {
            machine.queues[TX].run(&[(BUFFERS, 1 << 20, false)]);
        }
        assert_eq!(machine.interrupt.failure(), None);
    }

    #[test]
    fn broken_queues_stop_the_device() {
        // The device looks at the transmit queue even without input or output.
        let new = || {
            let null = File::options().write(true).open("/dev/null").unwrap();
            Console::new(None, null)
        };
        break_queue(TX, new, |machine| {
            machine.queues[TX].run(&[(BUFFERS, 10, false)]);
        });
        let endless = || {
            let null = File::options().write(true).open("/dev/null").unwrap();
            Console::new(Some(File::open("/dev/zero").unwrap()), null)
        };
        break_queue(RX, endless, |machine| {
            let read = machine.queues[RX].run(&[(BUFFERS, 10, true)]);
            assert_eq!(read, 10);
        });
    }
}
