//! What can't be, as the `kiln` command tells it: what is wrong, and the next step. One row each.

use std::os::unix::fs::symlink;

use crate::bed::vmd_program;
use crate::home::{Home, row};

/// What is wrong, and what `kiln start` should say about it, with its exit code.
struct Case {
    name: &'static str,
    settings: &'static str,
    prepare: fn(&mut Home),
    code: i32,
    says: &'static [&'static str],
}

const NATIVE: &str = "driver = \"native\"\n";

fn nothing(_: &mut Home) {}

/// Any file passes for the emulator: it isn't started.
fn guest(home: &mut Home) -> std::path::PathBuf {
    home.set("KILN_QEMU", vmd_program().display().to_string());
    let guest = home.path("guest");
    home.set("KILN_GUEST", guest.display().to_string());
    guest
}

const CASES: &[Case] = &[
    Case {
        name: "a socket path that is too long",
        settings: NATIVE,
        prepare: |home| home.set("KILN_RUNTIME_DIR", format!("/tmp/{}", "x".repeat(100))),
        code: 3,
        says: &[
            "the system takes 103",
            "set KILN_RUNTIME_DIR to a shorter directory",
        ],
    },
    Case {
        name: "a directory that isn't absolute",
        settings: NATIVE,
        prepare: |home| home.set("KILN_STATE_DIR", "state"),
        code: 3,
        says: &["KILN_STATE_DIR=\"state\" isn't an absolute path"],
    },
    Case {
        name: "a runtime directory that is a link",
        settings: NATIVE,
        prepare: |home| {
            let elsewhere = home.path("elsewhere");
            std::fs::create_dir(&elsewhere).unwrap();
            symlink(elsewhere, &home.paths.runtime).unwrap();
        },
        code: 4,
        says: &[
            "is a link or no directory",
            "remove it, or set KILN_RUNTIME_DIR",
        ],
    },
    Case {
        name: "an unknown key",
        settings: "driver = \"native\"\ncpsu = 3\n",
        prepare: nothing,
        code: 4,
        says: &["settings.toml", "line 2", "unknown field `cpsu`", "`cpus`"],
    },
    Case {
        name: "an unknown key of the engine",
        settings: "driver = \"native\"\nbuildkitd-toml = \"wroker = 1\"\n",
        prepare: nothing,
        code: 4,
        says: &["settings.toml", "buildkitd-toml", "wroker"],
    },
    Case {
        name: "too little memory",
        settings: "driver = \"native\"\nmemory = \"1MB\"\n",
        prepare: nothing,
        code: 4,
        says: &["settings.toml: memory: 1MiB isn't between 512MiB and 4TiB"],
    },
    Case {
        name: "too large a disk",
        settings: "driver = \"native\"\ndisk = \"100TB\"\n",
        prepare: nothing,
        code: 4,
        says: &["settings.toml: disk: 100TiB isn't between 1GiB and 16TiB"],
    },
    Case {
        name: "too many processors",
        settings: "driver = \"native\"\ncpus = 1000\n",
        prepare: nothing,
        code: 4,
        says: &["settings.toml: cpus: 1000 isn't between 1 and 255"],
    },
    Case {
        name: "an unknown driver",
        settings: "",
        prepare: |home| home.set("KILN_DRIVER", "vmware"),
        code: 4,
        says: &["KILN_DRIVER=\"vmware\": want qemu or native"],
    },
    Case {
        name: "no owner program",
        settings: NATIVE,
        prepare: |home| home.set("KILN_VMD", "/nonexistent/kiln-vmd"),
        code: 4,
        says: &[
            "/nonexistent/kiln-vmd didn't start: No such file",
            "KILN_VMD names another one",
        ],
    },
    Case {
        name: "no engine",
        settings: NATIVE,
        prepare: |home| home.set("KILN_KILND", "/nonexistent/kilnd"),
        code: 4,
        says: &[
            "kilnd isn't found",
            "install it beside kiln-vmd or in PATH, or name it by KILN_KILND",
        ],
    },
    Case {
        name: "no QEMU",
        settings: "",
        prepare: |home| home.set("KILN_QEMU", "/nonexistent/qemu"),
        code: 4,
        says: &["isn't found", "apt install qemu-system-x86", "KILN_QEMU"],
    },
    Case {
        name: "no guest image",
        settings: "",
        prepare: |home| drop(guest(home)),
        code: 4,
        says: &["guest", "cargo xtask guest"],
    },
    Case {
        name: "a damaged guest image",
        settings: "",
        prepare: |home| {
            let _ = guest(home);
            home.put("guest/vmlinux", "short");
            home.put(
                "guest/manifest.json",
                r#"{"vmlinux":{"bytes":50},"initrd.zst":{"bytes":5}}"#,
            );
        },
        code: 4,
        says: &["vmlinux is missing or damaged", "install the image anew"],
    },
    Case {
        name: "a state that is a file",
        settings: NATIVE,
        prepare: |home| drop(home.put("s", "a file")),
        code: 4,
        says: &["create", "File exists"],
    },
    Case {
        name: "a damaged database",
        settings: NATIVE,
        prepare: |home| drop(home.put("s/native/state.db", [0x5a; 8192])),
        code: 4,
        says: &[
            "state.db is damaged",
            "nothing was changed",
            "put a copy of it back, or move it away",
        ],
    },
];

#[test]
fn each_says_what_is_wrong_and_what_to_do() {
    let mut wrong = Vec::new();
    for case in CASES {
        let mut home = Home::new(case.settings);
        (case.prepare)(&mut home);
        let ended = home.run(&["start"]);
        let said = |text: &&&str| ended.stderr.contains(**text);
        let missing: Vec<_> = case.says.iter().filter(|text| !said(text)).collect();
        if ended.code != Some(case.code) || !missing.is_empty() || !ended.stdout.is_empty() {
            wrong.push((case.name, case.code, missing, ended));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn doctor_names_what_it_finds_and_its_fix() {
    let mut home = Home::new("");
    home.set("KILN_QEMU", "/nonexistent/qemu");
    home.set("KILN_GUEST", "/nonexistent/guest");
    home.expect(&row(
        &["doctor"],
        1,
        &[
            "FAILED   The emulator is installed",
            "Fix: apt install qemu-system-x86, or name it by KILN_QEMU",
            "FAILED   The guest image is there",
            "Fix: cargo xtask guest, or name its directory by KILN_GUEST",
            "skipped  The engine answers",
        ],
    ));
    std::fs::write(home.paths.settings_file(), "idle-stop = \"soon\"\n").unwrap();
    home.expect(&row(
        &["doctor"],
        1,
        &[
            "FAILED   The settings can be used",
            "line 1",
            "Fix: correct that line",
        ],
    ));
}
