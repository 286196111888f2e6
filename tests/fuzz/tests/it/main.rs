//! Each target for a moment, after the inputs that once broke it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kiln_fuzz::{ALL, Found, Target, fuzz, replay};

/// As many inputs, unless the machine is so slow that the time ends first.
const INPUTS: u64 = 3000;
const MOMENT: Duration = Duration::from_secs(8);

fn show(target: &Target, found: &Found) -> String {
    let input = String::from_utf8_lossy(&found.input);
    format!("{}: {}\n{:?}", target.name, found.what, input)
}

#[test]
fn what_broke_a_promise_once_keeps_it_now() {
    for target in ALL {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("testdata")
            .join(target.name);
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let input = fs::read(entry.unwrap().path()).unwrap();
            let outcome = replay(target, &input);
            assert!(outcome.is_ok(), "{}", show(target, &outcome.unwrap_err()));
        }
    }
}

#[test]
fn seeds_are_understood() {
    for target in ALL {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}", target.name);
        let outcomes: Vec<_> = seeds.iter().map(|seed| (target.read)(seed)).collect();
        let read = outcomes.iter().any(|outcome| outcome.contains("ok"));
        assert!(read, "{}: {outcomes:?}", target.name);
    }
}

/// One test each, so that they run side by side and a failure names its target.
macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let name = stringify!($name);
                let target = ALL.iter().find(|target| target.name == name).unwrap();
                let outcome = fuzz(target, 1, MOMENT, INPUTS);
                assert!(outcome.is_ok(), "{}", show(target, &outcome.unwrap_err()));
            }
        )*

        #[test]
        fn every_target_has_a_test() {
            let named = [$(stringify!($name)),*];
            let all: Vec<_> = ALL.iter().map(|target| target.name).collect();
            assert_eq!(all, named);
        }
    };
}

targets! {
    dockerfile
    frontend
    ignore_file
    llb
    buildkitd_toml
    tar
    compressed
    image_json
    names
    filesync
    cache_config
    link
    filters
}
