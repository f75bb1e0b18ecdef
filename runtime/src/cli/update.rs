//! The flags of `nacre update`.

use std::{path::PathBuf, str::FromStr};

use clap::Args;

use crate::config::{Bytes, NotASize};

#[derive(Debug, Args)]
#[command(after_help = "\
The file has linux.resources as config.json has it; what it leaves out stays as it is:
  {\"memory\": {\"limit\": 0, \"reservation\": 0, \"swap\": 0},
   \"cpu\": {\"shares\": 0, \"quota\": 0, \"period\": 0, \"realtimeRuntime\": 0, \"realtimePeriod\": 0,
           \"cpus\": \"\", \"mems\": \"\"},
   \"blockIO\": {\"weight\": 0}}
The other flags are without effect then. A size is a number of bytes, or with K, M, G or T.")]
pub(crate) struct Update {
    /// A file with the resources to change, or - for standard input
    #[arg(long, short, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// The share of I/O, from 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) blkio_weight: Option<u16>,
    /// The period of the CPU time limit, in microseconds
    #[arg(long, value_name = "TIME")]
    pub(crate) cpu_period: Option<u64>,
    /// The CPU time in each period, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// The unused CPU time that can be saved up, in microseconds
    #[arg(long, value_name = "TIME")]
    pub(crate) cpu_burst: Option<u64>,
    /// The share of CPU time, in relation to other containers
    #[arg(long, value_name = "SHARES")]
    pub(crate) cpu_share: Option<u64>,
    /// The period of the limit on realtime processes, in microseconds
    #[arg(long, value_name = "TIME")]
    pub(crate) cpu_rt_period: Option<u64>,
    /// The CPU time for realtime processes in each period, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Whether the container only runs on CPUs that would be idle: 1 or 0
    #[arg(long, value_name = "0|1")]
    pub(crate) cpu_idle: Option<i64>,
    /// The CPUs to use
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// The memory nodes to use
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// Without effect: Linux has no such limit any more
    #[arg(long, value_name = "SIZE")]
    pub(crate) kernel_memory: Option<String>,
    /// Without effect: Linux has no such limit any more
    #[arg(long, value_name = "SIZE")]
    pub(crate) kernel_memory_tcp: Option<String>,
    /// The memory limit; -1 for none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory: Option<Limit>,
    /// The memory that the container keeps when there is little; -1 for no such limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<Limit>,
    /// The limit of memory and swap together; -1 for none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<Limit>,
    /// The most processes and threads; -1 for any number
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Refused: Intel RDT isn't supported
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) l3_cache_schema: Option<String>,
    /// Refused: Intel RDT isn't supported
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) mem_bw_schema: Option<String>,
    /// The container's id
    pub(crate) id: String,
}

/// A number of bytes, or -1 for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) i64);

impl FromStr for Limit {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        if text == "-1" {
            return Ok(Self(-1));
        }
        // As runc reads it: 20M, 20m, 20MB and 20MiB are the same.
        let unit = text.len()
            - text
                .trim_end_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let (number, unit) = text.split_at(text.len() - unit);
        let first = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => "",
            "k" | "kb" | "kib" => "K",
            "m" | "mb" | "mib" => "M",
            "g" | "gb" | "gib" => "G",
            "t" | "tb" | "tib" => "T",
            _ => return Err(NotASize::new(text)),
        };
        let Bytes(bytes) = format!("{number}{first}").parse()?;
        i64::try_from(bytes)
            .map(Self)
            .map_err(|_| NotASize::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_runc_reads_them() {
        for (text, bytes) in [
            ("-1", -1),
            ("0", 0),
            ("20971520", 20 << 20),
            ("20M", 20 << 20),
            ("20m", 20 << 20),
            ("20MB", 20 << 20),
            ("20MiB", 20 << 20),
            ("512b", 512),
            ("1g", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Limit(bytes)), "{text}");
        }
        for text in ["", "M", "-2", "20X", "20MM", "1e3", "9999999T", "2 M"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }
}
