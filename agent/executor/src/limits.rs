//! Limits of a container, as cgroup v2 writes them.

use std::collections::BTreeMap;

/// Parsed limits; what is `max` or unknown is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `memory.max`, bytes.
    pub(crate) memory: Option<i64>,
    /// `memory.swap.max`, bytes beside memory.
    pub(crate) memory_swap: Option<i64>,
    /// `cpu.max`: microseconds of each period, and its length.
    pub(crate) cpu_quota: Option<(Option<i64>, u64)>,
    /// `cpu.weight`, 1 to 10000.
    pub(crate) cpu_weight: Option<u64>,
    /// `pids.max`.
    pub(crate) pids: Option<i64>,
    /// `cpuset.cpus`.
    pub(crate) cpus: Option<String>,
    /// `cpuset.mems`.
    pub(crate) mems: Option<String>,
}

impl Limits {
    pub(crate) fn parse(limits: &BTreeMap<String, String>) -> Self {
        fn number<T: std::str::FromStr>(text: Option<&String>) -> Option<T> {
            text.and_then(|text| text.trim().parse().ok())
        }
        let text = |key: &str| limits.get(key).filter(|text| !text.is_empty()).cloned();
        let cpu_quota = limits.get("cpu.max").map(|text| {
            let mut parts = text.split_ascii_whitespace();
            let quota = parts.next().and_then(|quota| quota.parse().ok());
            let period = parts.next().and_then(|period| period.parse().ok());
            (quota, period.unwrap_or(100_000))
        });
        Self {
            memory: number(limits.get("memory.max")),
            memory_swap: number(limits.get("memory.swap.max")),
            cpu_quota,
            cpu_weight: number(limits.get("cpu.weight")),
            pids: number(limits.get("pids.max")),
            cpus: text("cpuset.cpus"),
            mems: text("cpuset.mems"),
        }
    }

    /// A weight of cgroup v2 (1 to 10000) as shares of v1 (2 to 262144).
    pub(crate) fn shares(weight: u64) -> u64 {
        2 + (weight.clamp(1, 10_000) - 1) * 262_142 / 9_999
    }
}

/// Where a limit of cgroup v1 is written: controller, file, value.
type Legacy<T> = (&'static str, &'static str, T);

impl Limits {
    /// As files of cgroup v1, in an order that the kernel takes; `beside` processes don't count.
    pub(crate) fn legacy(&self, beside: i64) -> Vec<Legacy<String>> {
        let mut out = Vec::new();
        if let Some(memory) = self.memory {
            out.push(("memory", "memory.limit_in_bytes", memory.to_string()));
        }
        if let Some(swap) = self.memory_swap {
            let both = swap + self.memory.unwrap_or(0);
            out.push(("memory", "memory.memsw.limit_in_bytes", both.to_string()));
        }
        if let Some((quota, period)) = self.cpu_quota {
            out.push(("cpu", "cpu.cfs_period_us", period.to_string()));
            out.push(("cpu", "cpu.cfs_quota_us", quota.unwrap_or(-1).to_string()));
        }
        if let Some(weight) = self.cpu_weight {
            out.push(("cpu", "cpu.shares", Self::shares(weight).to_string()));
        }
        if let Some(pids) = self.pids {
            out.push(("pids", "pids.max", (pids + beside).to_string()));
        }
        if let Some(cpus) = &self.cpus {
            out.push(("cpuset", "cpuset.cpus", cpus.clone()));
        }
        if let Some(mems) = &self.mems {
            out.push(("cpuset", "cpuset.mems", mems.clone()));
        }
        out
    }

    /// What undoes limits of cgroup v1, in an order that the kernel takes.
    pub(crate) fn none_legacy() -> [Legacy<&'static str>; 5] {
        [
            ("memory", "memory.memsw.limit_in_bytes", "-1"),
            ("memory", "memory.limit_in_bytes", "-1"),
            ("cpu", "cpu.cfs_quota_us", "-1"),
            ("cpu", "cpu.shares", "1024"),
            ("pids", "pids.max", "max"),
        ]
    }
}

/// Shares of cgroup v1, which clients give, as the weight of v2.
pub fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let limits: BTreeMap<String, String> = [
            ("memory.max", "1048576"),
            ("memory.swap.max", "max"),
            ("cpu.max", "max 50000"),
            ("pids.max", "12"),
            ("cpuset.cpus", "0-1"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let expected = Limits {
            memory: Some(1 << 20),
            cpu_quota: Some((None, 50_000)),
            pids: Some(12),
            cpus: Some("0-1".into()),
            ..Limits::default()
        };
        assert_eq!(Limits::parse(&limits), expected);
    }

    #[test]
    fn shares_and_weights_meet_at_the_ends() {
        for (shares, weight) in [(2, 1), (262_144, 10_000)] {
            assert_eq!(cpu_weight(shares), weight);
            assert_eq!(Limits::shares(weight), shares);
        }
    }
}
