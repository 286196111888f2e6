//! What runs would remove.

use std::time::{Duration, Instant};

use kiln_cache::{UsageKind, UsageRecord};
use kiln_config::WorkerConfig;
use kiln_gc::{Disk, Filters, Order, Plan, Policy, Reason, plan};

use crate::record::{now, record};

const DISK: Disk = Disk {
    total: 1000 << 30,
    free: 900 << 30,
};

fn run(records: &[UsageRecord], policy: Policy) -> Plan {
    plan(records, &[policy], Order::Use, DISK, now())
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.removals
        .iter()
        .map(|removal| removal.record.id.as_str())
        .collect()
}

#[test]
fn children_go_first_and_what_is_used_or_pinned_stays() {
    let mut records = vec![
        record("base", 10, 9, &[]),
        record("mid", 10, 9, &["base"]),
        record("top", 10, 9, &["mid"]),
        record("used", 10, 1, &["base2"]),
        record("base2", 10, 1, &[]),
        record("pinned", 10, 9, &[]),
    ];
    records[3].in_use = true;
    records[4].in_use = true;
    records[5].pinned = true;
    let all = run(&records, Policy::everything(false));
    assert_eq!(ids(&all), ["top", "mid", "base"]);
    assert_eq!((all.freed, all.left), (30, 30));
    assert!(
        all.removals
            .iter()
            .all(|removal| removal.reason == Reason::Meant)
    );
    records[5].pinned = false;
    records[5].parents = vec![records[1].id.clone()];
    records[5].in_use = true;
    assert_eq!(
        ids(&run(&records, Policy::everything(true))),
        ["top"],
        "a child holds its parents"
    );
}

#[test]
fn kinds_of_the_engine_and_shared_records_go_only_with_all() {
    let mut records = vec![
        record("a", 1, 1, &[]),
        record("b", 1, 1, &[]),
        record("c", 1, 1, &[]),
    ];
    records[0].kind = UsageKind::Internal;
    records[1].kind = UsageKind::Frontend;
    records[2].shared = true;
    assert!(run(&records, Policy::everything(false)).removals.is_empty());
    assert_eq!(run(&records, Policy::everything(true)).removals.len(), 3);
}

#[test]
fn a_limit_takes_the_least_valuable_until_little_enough_is_left() {
    let mut records = vec![
        record("old", 100, 30, &[]),
        record("older", 100, 40, &[]),
        record("new", 100, 1, &[]),
        record("popular", 100, 50, &[]),
    ];
    records[3].usage_count = 9;
    let limit = |max_used_space| Policy {
        max_used_space,
        ..Policy::default()
    };
    assert_eq!(ids(&run(&records, limit(350))), ["older"]);
    assert_eq!(ids(&run(&records, limit(250))), ["older", "old"]);
    assert!(run(&records, limit(1000)).removals.is_empty());
    let reason = run(&records, limit(350)).removals[0].reason;
    assert_eq!(
        reason,
        Reason::OverLimit {
            used: 400,
            keep: 350
        }
    );
    let reserved = Policy {
        reserved_space: 350,
        max_used_space: 100,
        ..Policy::default()
    };
    assert_eq!(ids(&run(&records, reserved)), ["older"]);
}

#[test]
fn of_equals_the_one_goes_that_is_quick_to_make() {
    let mut records = vec![record("slow", 100, 5, &[]), record("quick", 100, 5, &[])];
    records[0].build_time = Some(Duration::from_mins(10));
    records[1].build_time = Some(Duration::from_secs(1));
    let policy = Policy {
        max_used_space: 150,
        ..Policy::default()
    };
    assert_eq!(ids(&run(&records, policy)), ["quick"]);
}

#[test]
fn by_cost_only_bytes_per_second_count() {
    let mut records = vec![
        record("old", 100, 90, &[]),
        record("large", 1000, 1, &[]),
        record("unknown", 1, 1, &[]),
        record("slow", 1000, 90, &[]),
    ];
    for (record, seconds) in records.iter_mut().zip([10, 10, 0, 1000]) {
        record.build_time = Some(Duration::from_secs(seconds)).filter(|time| !time.is_zero());
    }
    let all = [Policy::everything(true)];
    let by = |order| {
        let plan = plan(&records, &all, order, DISK, now());
        ids(&plan).join(" ")
    };
    assert_eq!(by(Order::Cost), "unknown large old slow");
    assert_eq!(by(Order::Use), "old slow unknown large");
}

#[test]
fn something_always_bounds_the_cache() {
    let ceiling = 801_000_000_000;
    for (config, want) in [
        ("reservedSpace = \"1GB\"", ceiling),
        ("maxUsedSpace = \"5GB\"", 5 << 30),
        (
            "[[gcpolicy]]\nall = true\nfilters = [\"type==source.local\"]\nmaxUsedSpace = \"1GB\"",
            ceiling,
        ),
        (
            "[[gcpolicy]]\nmaxUsedSpace = \"1GB\"\nkeepDuration = \"1h\"\n[[gcpolicy]]\nall = true\nmaxUsedSpace = \"2GB\"",
            2 << 30,
        ),
    ] {
        let text = format!(
            "[worker.oci]\n{}",
            config.replace("[[gc", "[[worker.oci.gc")
        );
        let config = kiln_config::parse(&text, std::path::Path::new("x.toml")).unwrap();
        let policies = Policy::from_config(&config.worker.oci, DISK).unwrap();
        let last = policies.last().unwrap();
        assert!(last.all && last.max_used_space == want, "{text}: {last:?}");
    }
}

#[test]
fn age_and_filters_choose() {
    let mut records = vec![
        record("old", 1, 72, &[]),
        record("new", 1, 24, &[]),
        record("never", 1, 72, &[]),
    ];
    records[2].last_used = None;
    let aged = Policy {
        keep_duration: Duration::from_hours(48),
        ..Policy::default()
    };
    let plan = run(&records, aged);
    assert_eq!(ids(&plan), ["never", "old"]);
    let since = Duration::from_hours(72);
    assert_eq!(plan.removals[1].reason, Reason::Unused { since });
    let filtered = Policy {
        filters: Filters::parse(&["id~=^n"]).unwrap(),
        ..Policy::default()
    };
    assert_eq!(ids(&run(&records, filtered)), ["never", "new"]);
}

#[test]
fn the_default_policies_are_buildkits() {
    let policies = Policy::from_config(&WorkerConfig::default(), DISK).unwrap();
    let shape: Vec<_> = policies
        .iter()
        .map(|p| {
            (
                p.all,
                p.keep_duration.as_secs() / 3600,
                p.reserved_space,
                p.max_used_space,
                p.min_free_space,
            )
        })
        .collect();
    let (reserved, max, free) = (10_000_000_000, 100_000_000_000, 201_000_000_000);
    assert_eq!(
        shape,
        [
            (false, 48, 0, 512_000_000, 0),
            (false, 1440, reserved, max, free),
            (false, 0, reserved, max, free),
            (true, 0, reserved, max, free),
        ]
    );
    let off = WorkerConfig {
        gc: Some(false),
        ..WorkerConfig::default()
    };
    assert!(Policy::from_config(&off, DISK).unwrap().is_empty());
}

#[test]
fn ten_thousand_records_are_planned_at_once() {
    let mut records = Vec::new();
    for chain in 0..500 {
        for depth in 0..20_u64 {
            let parent = format!("{chain}-{}", depth.wrapping_sub(1));
            let parents: &[&str] = if depth == 0 { &[] } else { &[&parent] };
            records.push(record(
                &format!("{chain}-{depth}"),
                1000,
                chain % 90,
                parents,
            ));
        }
    }
    let policies = Policy::from_config(&WorkerConfig::default(), DISK).unwrap();
    let begun = Instant::now();
    let idle = plan(&records, &policies, Order::Use, DISK, now());
    assert!(idle.removals.is_empty());
    let half = Policy {
        max_used_space: 5_000_000,
        ..Policy::default()
    };
    let full = plan(&records, &[half], Order::Use, DISK, now());
    assert_eq!(full.removals.len(), 5_001);
    // A hundred times what it takes in an optimised build.
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}
