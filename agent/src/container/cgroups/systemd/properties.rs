//! Converts limits to a unit's properties (systemd.resource-control(5)).

use crate::container::cgroups::resources::Settings;
use crate::container::cgroups::setting::Setting;
use crate::container::kernel::cpu_list;

/// A property's name and value.
pub type Property = (String, Value);

/// The value of a unit's property, by its D-Bus type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `ay`: one bit for each number.
    Bits(Vec<u8>),
    /// `au`
    Pids(Vec<u32>),
}

/// systemd's value for no limit.
const INFINITY: u64 = u64::MAX;

/// Returns the limits that systemd knows. It leaves the others alone.
pub(super) fn from_settings(settings: &Settings) -> Vec<Property> {
    let mut properties: Vec<Property> = Vec::new();
    // Later ones override earlier ones, as with the files.
    let mut set = |name: &str, value: Value| {
        properties.retain(|(known, _)| known != name);
        properties.push((name.to_owned(), value));
    };
    for setting in settings.v1.iter().chain(&settings.v2) {
        let name = match setting.file.as_str() {
            "memory.max" => "MemoryMax",
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.min" => "MemoryMin",
            "memory.swap.max" => "MemorySwapMax",
            "memory.limit_in_bytes" => "MemoryLimit",
            "cpu.weight" => "CPUWeight",
            "cpu.shares" => "CPUShares",
            "io.bfq.weight" | "io.weight" => continue,
            "pids.max" => "TasksMax",
            "cpuset.cpus" | "cpuset.mems" => {
                // Only for version 2, where systemd supports them.
                if let (true, Some(bits)) = (settings.v2.contains(setting), bits(&setting.value)) {
                    let name = match setting.file.as_str() {
                        "cpuset.cpus" => "AllowedCPUs",
                        _ => "AllowedMemoryNodes",
                    };
                    set(name, Value::Bits(bits));
                }
                continue;
            }
            "cpu.max" => {
                let (quota, period) = setting
                    .value
                    .split_once(' ')
                    .unwrap_or((&setting.value, ""));
                if let Some(quota) = number(quota) {
                    let period = number(period).unwrap_or(DEFAULT_PERIOD);
                    set(
                        "CPUQuotaPerSecUSec",
                        Value::Number(per_second(quota, period)),
                    );
                    set("CPUQuotaPeriodUSec", Value::Number(period));
                }
                continue;
            }
            "cpu.cfs_quota_us" => {
                if let Some(quota) = number(&setting.value) {
                    let period = period_of(&settings.v1);
                    set(
                        "CPUQuotaPerSecUSec",
                        Value::Number(per_second(quota, period)),
                    );
                }
                continue;
            }
            _ => continue,
        };
        if let Some(value) = number(&setting.value) {
            set(name, Value::Number(value));
        }
    }
    properties
}

/// The kernel's default, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

fn period_of(v1: &[Setting]) -> u64 {
    let period = v1
        .iter()
        .find(|setting| setting.file == "cpu.cfs_period_us");
    period
        .and_then(|setting| number(&setting.value))
        .unwrap_or(DEFAULT_PERIOD)
}

fn number(text: &str) -> Option<u64> {
    match text {
        "max" | "-1" => Some(INFINITY),
        number => number.parse().ok(),
    }
}

/// Returns microseconds per second. systemd counts in whole percents: rounded up, so that it never
/// takes away what the file gives.
fn per_second(quota: u64, period: u64) -> u64 {
    match quota {
        INFINITY => INFINITY,
        quota => {
            let exactly = quota.saturating_mul(1_000_000) / period.max(1);
            exactly.next_multiple_of(10_000)
        }
    }
}

/// Returns the numbers of a list, one bit each, a byte's lowest bit first.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for number in cpu_list::parse(list)? {
        let byte = usize::try_from(number / 8).ok()?;
        if bits.len() <= byte {
            bits.resize(byte + 1, 0);
        }
        bits[byte] |= 1 << (number % 8);
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::resources::Versions;

    fn properties(json: &str, versions: &Versions<'_>) -> Vec<(String, Value)> {
        let resources = serde_json::from_str(json).unwrap();
        from_settings(&Settings::new(&resources, versions).unwrap())
    }

    #[test]
    fn limits_of_v2_become_properties() {
        let json = r#"{"memory": {"limit": 4096, "swap": 8192, "reservation": -1},
            "cpu": {"shares": 1024, "quota": 5001, "period": 10000, "cpus": "0,9", "mems": "0"},
            "pids": {"limit": -1},
            "unified": {"memory.max": "max", "memory.high": "9"}}"#;
        let got = properties(json, &Versions::V2);
        let expected = [
            ("MemoryLow", Value::Number(INFINITY)),
            ("MemorySwapMax", Value::Number(4096)),
            ("CPUWeight", Value::Number(100)),
            ("CPUQuotaPerSecUSec", Value::Number(510_000)),
            ("CPUQuotaPeriodUSec", Value::Number(10_000)),
            ("AllowedCPUs", Value::Bits(vec![1, 2])),
            ("AllowedMemoryNodes", Value::Bits(vec![1])),
            ("TasksMax", Value::Number(INFINITY)),
            ("MemoryHigh", Value::Number(9)),
            ("MemoryMax", Value::Number(INFINITY)),
        ];
        assert_eq!(got, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn limits_of_v1_become_properties() {
        let json = r#"{"memory": {"limit": 4096}, "pids": {"limit": 5},
            "cpu": {"shares": 512, "quota": 5000, "period": 10000, "cpus": "0"}}"#;
        let got = properties(json, &Versions::V1);
        let expected = [
            ("MemoryLimit", Value::Number(4096)),
            ("CPUShares", Value::Number(512)),
            ("CPUQuotaPerSecUSec", Value::Number(500_000)),
            ("TasksMax", Value::Number(5)),
        ];
        assert_eq!(got, expected.map(|(name, value)| (name.to_owned(), value)));
    }
}
