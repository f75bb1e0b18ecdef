//! The MP table, which tells a kernel without ACPI about its processors and the I/O APIC's pins
//! (Intel MultiProcessor Specification 1.4, chapter 4).

use vm_memory::{Address, Bytes, GuestMemoryError, GuestMemoryMmap};

use super::layout::{IO_APIC, LOCAL_APIC, MP_TABLE};

const SPEC_REVISION: u8 = 4;
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
/// The number of pins of KVM's I/O APIC.
const IO_APIC_PINS: u8 = 24;
/// The cascade of the two PICs: no device has this interrupt.
pub(super) const CASCADE: u8 = 2;
/// The interrupt of a PC's timer.
const TIMER: u8 = 0;

const ISA_BUS: u8 = 0;

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC_ENTRY: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;

const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
const ALL_LOCAL_APICS: u8 = 0xff;

/// Writes the table for `vcpus` processors, whose APIC ids count from 0, and a timer at
/// `timer_pin`.
pub(super) fn write(
    memory: &GuestMemoryMmap,
    vcpus: u8,
    timer_pin: u8,
) -> Result<(), GuestMemoryError> {
    memory.write_slice(&table(vcpus, timer_pin), MP_TABLE)
}

/// Builds the floating pointer structure and the configuration table right after it.
fn table(vcpus: u8, timer_pin: u8) -> Vec<u8> {
    let mut bytes = floating_pointer(MP_TABLE.raw_value() as u32 + 16);
    bytes.extend(configuration(vcpus, timer_pin));
    bytes
}

fn floating_pointer(table: u32) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend(table.to_le_bytes());
    // Length in paragraphs, revision, checksum, and the feature bytes: there is a configuration
    // table, and no PIC mode.
    bytes.extend([1, SPEC_REVISION, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes);
    bytes
}

fn configuration(vcpus: u8, timer_pin: u8) -> Vec<u8> {
    let io_apic_id = vcpus;
    let mut entries: Vec<Vec<u8>> = Vec::new();

    for id in 0..vcpus {
        let flags = CPU_ENABLED | if id == 0 { CPU_BOOT } else { 0 };
        let mut entry = vec![PROCESSOR, id, LOCAL_APIC_VERSION, flags];
        // Signature and feature flags: the kernel asks CPUID.
        entry.extend([0; 16]);
        entries.push(entry);
    }
    entries.push([&[BUS, ISA_BUS], &b"ISA   "[..]].concat());
    entries.push(
        [
            &[IO_APIC_ENTRY, io_apic_id, IO_APIC_VERSION, 1],
            &IO_APIC.to_le_bytes()[..],
        ]
        .concat(),
    );
    // Polarity and trigger (the two zeros) are as the bus has them: ISA's interrupts are active
    // high and edge-triggered, just as an irqfd pulses its line.
    for irq in (0..IO_APIC_PINS).filter(|&irq| irq != CASCADE) {
        let pin = if irq == TIMER { timer_pin } else { irq };
        entries.push(vec![IO_INTERRUPT, INT, 0, 0, ISA_BUS, irq, io_apic_id, pin]);
    }
    entries.push(vec![LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.push(vec![
        LOCAL_INTERRUPT,
        NMI,
        0,
        0,
        ISA_BUS,
        0,
        ALL_LOCAL_APICS,
        1,
    ]);

    let length = 44 + entries.iter().map(Vec::len).sum::<usize>();
    let mut bytes = b"PCMP".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend([SPEC_REVISION, 0]);
    bytes.extend(b"NACRE   ");
    bytes.extend(b"MICROVM     ");
    bytes.extend([0; 6]);
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend(LOCAL_APIC.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(entries.concat());
    bytes[7] = checksum(&bytes);
    bytes
}

/// Returns the byte that makes the sum of all of them 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, &byte| sum.wrapping_add(byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::MAX_VCPUS;
    use crate::arch::x86_64::layout::LOW_MEMORY_END;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
    }

    #[test]
    fn checksums_and_lengths_hold() {
        for vcpus in [1, 2, 8, MAX_VCPUS] {
            let table = table(vcpus, TIMER);
            assert!(MP_TABLE.raw_value() + table.len() as u64 <= LOW_MEMORY_END);
            let (pointer, configuration) = table.split_at(16);
            assert_eq!(sum(pointer), 0);
            assert_eq!(&pointer[..4], b"_MP_");
            assert_eq!(sum(configuration), 0);
            let length = u16::from_le_bytes([configuration[4], configuration[5]]);
            assert_eq!(usize::from(length), configuration.len());
        }
    }

    #[test]
    fn entries_are_the_processors_and_the_pins() {
        let table = configuration(3, TIMER);
        let (mut rest, mut counts) = (&table[44..], [0; 5]);
        let mut ids = Vec::new();
        while let Some(&kind) = rest.first() {
            counts[usize::from(kind)] += 1;
            if kind == PROCESSOR {
                ids.push((rest[1], rest[3]));
            }
            rest = &rest[if kind == PROCESSOR { 20 } else { 8 }..];
        }
        assert_eq!(ids, [(0, 3), (1, 1), (2, 1)]);
        assert_eq!(counts, [3, 1, 1, 23, 2]);
        assert_eq!(u16::from_le_bytes([table[34], table[35]]), 30);
    }

    #[test]
    fn the_timer_is_at_its_pin() {
        let pins = |table: &[u8]| -> Vec<(u8, u8)> {
            let interrupts = &table[44 + 20 + 2 * 8..];
            let entries = interrupts.chunks(8).filter(|e| e[0] == IO_INTERRUPT);
            entries.map(|e| (e[5], e[7])).collect()
        };
        let pc = pins(&configuration(1, CASCADE));
        assert_eq!(pc[..3], [(0, 2), (1, 1), (3, 3)]);
        assert_eq!(pins(&configuration(1, TIMER))[..2], [(0, 0), (1, 1)]);
    }
}
