//! A guest that does everything wrong: nacre boots it in place of its kernel, and it attacks the
//! devices, the agent's end of the control connection, and the file server, from a seed. README.md says
//! how it is built and run.
//!
//! It has one processor, no interrupts, no heap, and never looks at a clock: what it does comes from the
//! seed, except for how fast devices answer.

#![no_std]
#![no_main]

#[macro_use]
mod console;
mod control;
mod device;
mod files;
mod memory;
mod others;
mod random;
mod vsock;
mod wild;
mod words;

use core::panic::PanicInfo;

use control::{Control, Mood};
use device::{BLOCK, Device, FILES, NET, VSOCK};
use files::Files;
use random::Random;
use vsock::Vsock;
use words::Words;

core::arch::global_asm!(include_str!("entry.s"));

/// Entries of the memory map in the zero page.
const MAP_ENTRIES: u64 = 0x1e8;
const MAP: u64 = 0x2d0;
const RAM: u32 = 1;

#[unsafe(no_mangle)]
extern "C" fn main(zero_page: u64) -> ! {
    let Some(words) = Words::find(zero_page) else {
        say!("hostile guest: there are no words for it");
        console::power_off();
    };
    let seed = words.number("seed").unwrap_or(0);
    let command_line = Words::of_command_line(zero_page);
    let (devices, count) = Device::all(&command_line);
    let end = memory_end(zero_page);
    say!("hostile guest: seed {seed}, {count} devices, {end:#x} bytes");
    let mut guest = Guest {
        random: Random::new(seed, end),
        words: &words,
        devices,
        count,
        mood: Mood::of(seed),
    };
    guest.rage()
}

/// Returns where the memory below 4 GiB ends.
fn memory_end(zero_page: u64) -> u64 {
    let entries = memory::read::<u8>(zero_page + MAP_ENTRIES);
    let mut end = 0;
    for entry in (zero_page + MAP..).step_by(20).take(entries.into()) {
        let (start, size) = (memory::read::<u64>(entry), memory::read::<u64>(entry + 8));
        if memory::read::<u32>(entry + 16) == RAM && start + size <= 0xc000_0000 {
            end = end.max(start + size);
        }
    }
    end
}

struct Guest<'a> {
    random: Random,
    words: &'a Words,
    devices: [Option<Device>; device::MAX_DEVICES],
    count: usize,
    mood: Mood,
}

/// An attack.
#[derive(Clone, Copy)]
enum Attack {
    Registers,
    Rings,
    Chains,
    Storm,
    Resets,
    Files,
    Disk,
    Frames,
    Packets,
    Connections,
    Flood,
}

use Attack::{Chains, Connections, Disk, Flood, Frames, Packets, Registers, Resets, Rings, Storm};

impl Attack {
    /// Whether all rings are right.
    fn is_calm(self) -> bool {
        !matches!(self, Registers | Rings | Chains | Storm | Resets)
    }
}

const ATTACKS: [(Attack, &str); 11] = [
    (Attack::Files, "files"),
    (Registers, "registers"),
    (Rings, "rings"),
    (Chains, "chains"),
    (Storm, "storm"),
    (Resets, "resets"),
    (Disk, "disk"),
    (Frames, "frames"),
    (Packets, "packets"),
    (Connections, "connections"),
    (Flood, "flood"),
];

impl Guest<'_> {
    /// Attacks for ever.
    fn rage(&mut self) -> ! {
        let vsock = self.first(VSOCK).and_then(Vsock::start);
        let mut control = vsock.map(|vsock| Control::new(vsock, self.mood, self.words));
        say!("mood {:?}", self.mood);
        if let Some(control) = &mut control {
            control.begin(&mut self.random);
        }
        // A machine that QEMU emulates ends once a ring was wrong. What only takes rings that are right
        // comes first where a container runs.
        let calm = if self.mood == Mood::Patient { 60 } else { 0 };
        let mut round = 0_u64;
        loop {
            if let Some(control) = control.as_mut().filter(|control| control.is_waiting()) {
                control.go_on(&mut self.random);
                continue;
            }
            let only = self.words.value("only");
            let (attack, name) = loop {
                let (attack, name) = if self.random.once_in(3) {
                    ATTACKS[0]
                } else {
                    self.random.pick(&ATTACKS)
                };
                let is_chosen = only.is_none_or(|only| only == name);
                if is_chosen && (round >= calm || attack.is_calm()) {
                    break (attack, name);
                }
            };
            if round < 100 || self.random.once_in(16) {
                say!("{round} {name}");
            }
            self.attack(attack, &mut control);
            if let Some(control) = &mut control {
                control.go_on(&mut self.random);
            }
            round += 1;
        }
    }

    fn attack(&mut self, attack: Attack, control: &mut Option<Control>) {
        let random = &mut self.random;
        let ports = Control::ports(self.words);
        match attack {
            Attack::Files => return self.attack_files(control),
            Disk => {
                if let Some(device) = self.first(BLOCK) {
                    others::disk(&mut self.random, device);
                }
                return;
            }
            Frames => {
                if let Some(device) = self.first(NET) {
                    others::frames(&mut self.random, device);
                }
                return;
            }
            Flood => return others::flood(random),
            Packets | Connections => {
                if control.is_none() {
                    let vsock = self.first(VSOCK).and_then(Vsock::start);
                    *control = vsock.map(|vsock| Control::new(vsock, Mood::Silent, self.words));
                }
                if let Some(control) = control {
                    let random = &mut self.random;
                    control.attack(random, &ports, matches!(attack, Packets));
                }
                return;
            }
            Registers | Rings | Chains | Storm | Resets => {}
        }
        if self.count == 0 {
            return;
        }
        let Some(device) = self.devices[random.below(self.count as u64) as usize] else {
            return;
        };
        // Without its socket it is heard no more.
        if device.kind == VSOCK {
            if self.mood.needs_vsock() && !random.once_in(32) {
                return;
            }
            *control = None;
        }
        match attack {
            Registers => wild::registers(random, device),
            Rings => wild::rings(random, device),
            Chains => wild::chains(random, device),
            Storm => wild::storm(random, device),
            _ => wild::resets(random, device),
        }
    }

    /// Attacks the files of one of its shares.
    fn attack_files(&mut self, control: &mut Option<Control>) {
        let all = self.devices[..self.count].iter().flatten();
        let mut shares = all.copied().filter(|device| device.kind == FILES);
        let takes_second = self.random.below(2) == 1;
        let first = shares.next();
        let share = if takes_second {
            shares.next().or(first)
        } else {
            first
        };
        let random = &mut self.random;
        if let Some(mut files) = share.and_then(|share| Files::start(share, random)) {
            files.attack(random, self.words, control);
        }
    }

    fn first(&self, kind: u32) -> Option<Device> {
        let all = self.devices[..self.count].iter().flatten();
        all.copied().find(|device| device.kind == kind)
    }
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    say!("hostile guest: bug: {info}");
    console::power_off()
}
