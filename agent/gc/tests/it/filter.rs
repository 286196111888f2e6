//! Filters as clients send them.

use kiln_cache::UsageKind;
use kiln_gc::Filters;

use crate::record::record;

#[test]
fn filters_mean_what_containerd_means() {
    let mut used = record("abc123", 1, 1, &["p1", "p2"]);
    used.in_use = true;
    let mut mount = record("def456", 1, 1, &[]);
    mount.mutable = true;
    mount.kind = UsageKind::ExecCacheMount;
    mount.shared = true;
    mount.description = "cached mount /root/.cache".into();
    let records = [used, mount];
    for (filters, want) in [
        (&[][..], &["abc123", "def456"][..]),
        (&[""], &["abc123", "def456"]),
        (&["id~=^abc"], &["abc123"]),
        (&["id==def456"], &["def456"]),
        (&["inuse"], &["abc123"]),
        (&["mutable"], &["def456"]),
        (&["immutable"], &["abc123"]),
        (&["shared"], &["def456"]),
        (&["private"], &["abc123"]),
        (&["type==exec.cachemount"], &["def456"]),
        (&["type!=exec.cachemount"], &["abc123"]),
        (&["type==source.local", "type==regular"], &["abc123"]),
        (&["type==regular,mutable"], &[]),
        (&["parents~=p2"], &["abc123"]),
        (&["parent==p1;p2"], &["abc123"]),
        (&["description~=\"cached mount\""], &["def456"]),
        (&["description~=/cached mount/"], &["def456"]),
        (&["description==\"step abc123\",inuse"], &["abc123"]),
        (&["nonsense"], &[]),
        (&["nonsense!=x"], &["abc123", "def456"]),
    ] {
        let parsed = Filters::parse(filters).unwrap();
        let found: Vec<_> = records
            .iter()
            .filter(|record| parsed.matches(record))
            .map(|record| record.id.as_str())
            .collect();
        assert_eq!(found, want, "{filters:?}");
    }
    for filter in ["==x", "id=x", "id~=[", "id==\"x", "id==x y", "a,,b"] {
        assert!(Filters::parse(&[filter]).is_err(), "{filter}");
    }
}
