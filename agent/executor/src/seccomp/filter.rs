//! A profile as a program for the kernel.
//!
//! The program tells the ABI apart, then finds the call's number in a balanced tree over ranges of
//! numbers with equal outcome: some ten comparisons instead of the hundreds of a linear filter, which
//! also makes it quick to load, for the kernel tries a new filter on every number.

use std::collections::BTreeMap;

use super::{Architecture, Check, Outcome, Profile};

/// One instruction of classic BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if a comparison holds.
    pub if_true: u8,
    /// And if it doesn't.
    pub if_false: u8,
    /// A constant.
    pub value: u32,
}

/// A compiled profile: what `seccomp(2)` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(pub Vec<Instruction>);

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const JUMP_ANY: u16 = 0x45;
const RETURN: u16 = 0x06;

const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const FAIL: u32 = 0x0005_0000;
const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

fn instruction(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        value,
    }
}

/// What a call number leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Outcome(Outcome),
    /// Allowed if one of the checks holds, else `EPERM`.
    Checked(Vec<(u8, Check)>),
}

fn returns(outcome: Outcome) -> Instruction {
    instruction(
        RETURN,
        match outcome {
            Outcome::Allow => ALLOW,
            Outcome::Fail(errno) => FAIL | u32::from(errno),
        },
        0,
        0,
    )
}

/// `AUDIT_ARCH_…`, and how a call's name becomes a number under that ABI.
type Abi = (u32, fn(&str) -> Option<u32>);

fn abis(architecture: Architecture) -> [Abi; 2] {
    fn number<T: std::str::FromStr>(name: &str, id: impl Fn(T) -> i32) -> Option<u32> {
        name.parse()
            .ok()
            .and_then(|sysno| u32::try_from(id(sysno)).ok())
    }
    match architecture {
        Architecture::X86_64 => [
            (0xc000_003e, |n| {
                number::<syscalls::x86_64::Sysno>(n, |s| s.id())
            }),
            (0x4000_0003, |n| {
                number::<syscalls::x86::Sysno>(n, |s| s.id())
            }),
        ],
        Architecture::Aarch64 => [
            (0xc000_00b7, |n| {
                number::<syscalls::aarch64::Sysno>(n, |s| s.id())
            }),
            (0x4000_0028, |n| {
                number::<syscalls::arm::Sysno>(n, |s| s.id())
            }),
        ],
    }
}

fn verdicts(profile: &Profile, number: fn(&str) -> Option<u32>) -> BTreeMap<u32, Verdict> {
    let mut out: BTreeMap<u32, Verdict> = BTreeMap::new();
    for rule in profile.rules() {
        for call in rule.names().filter_map(number) {
            match (rule.check, out.get_mut(&call)) {
                (Some(check), Some(Verdict::Checked(checks))) => checks.push(check),
                (Some(check), None) => {
                    out.insert(call, Verdict::Checked(vec![check]));
                }
                // What is allowed anyway needs no check.
                (Some(_), Some(Verdict::Outcome(_))) => {}
                (None, _) => {
                    out.insert(call, Verdict::Outcome(rule.outcome));
                }
            }
        }
    }
    out
}

/// Ranges by their first number, covering everything from 0 on.
fn ranges(verdicts: &BTreeMap<u32, Verdict>) -> Vec<(u32, Verdict)> {
    let refused = || Verdict::Outcome(Outcome::Fail(EPERM));
    let mut out: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |from: u32, verdict: Verdict| {
        if out.last().is_none_or(|(_, last)| *last != verdict) {
            out.push((from, verdict));
        }
    };
    let mut next = 0;
    for (&number, verdict) in verdicts {
        if number > next {
            push(next, refused());
        }
        push(number, verdict.clone());
        next = number + 1;
    }
    push(next, Verdict::Outcome(Outcome::Fail(ENOSYS)));
    out
}

fn leaf(verdict: &Verdict) -> Vec<Instruction> {
    let checks = match verdict {
        Verdict::Outcome(outcome) => return vec![returns(*outcome)],
        Verdict::Checked(checks) => checks,
    };
    let mut out = Vec::new();
    for &(index, check) in checks {
        // The lower half comes first in memory: both architectures are little-endian.
        out.push(instruction(LOAD, ARGUMENTS + 8 * u32::from(index), 0, 0));
        let (code, value, yes) = match check {
            Check::Equal(value) => (JUMP_EQ, value, true),
            Check::Greater(value) => (JUMP_GT, value, true),
            Check::Less(value) => (JUMP_GE, value, false),
            Check::Without(bits) => (JUMP_ANY, bits, false),
        };
        out.push(instruction(code, value, u8::from(!yes), u8::from(yes)));
        out.push(returns(Outcome::Allow));
    }
    out.push(returns(Outcome::Fail(EPERM)));
    out
}

fn tree(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = ranges {
        return leaf(verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let low_code = tree(low);
    let pivot = high[0].0;
    // A conditional jump reaches 255 instructions; a long jump reaches everything.
    let mut out = match u8::try_from(low_code.len()) {
        Ok(skip) => vec![instruction(JUMP_GE, pivot, skip, 0)],
        Err(_) => vec![
            instruction(JUMP_GE, pivot, 0, 1),
            instruction(JUMP, low_code.len() as u32, 0, 0),
        ],
    };
    out.extend(low_code);
    out.extend(tree(high));
    out
}

/// Compiles a profile.
pub fn compile(profile: &Profile) -> Filter {
    let mut program = vec![instruction(LOAD, ARCH, 0, 0)];
    for (arch, number) in abis(profile.architecture) {
        let mut body = vec![instruction(LOAD, NUMBER, 0, 0)];
        body.extend(tree(&ranges(&verdicts(profile, number))));
        program.push(instruction(JUMP_EQ, arch, 1, 0));
        program.push(instruction(JUMP, body.len() as u32, 0, 0));
        program.extend(body);
    }
    program.push(returns(Outcome::Fail(ENOSYS)));
    Filter(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: [&str; 1] = ["CAP_SYS_CHROOT"];

    /// Runs a filter as the kernel would.
    fn run(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut accumulator = 0_u32;
        let mut pc = 0;
        loop {
            let i = filter.0[pc];
            pc += 1;
            let jump = |holds: bool| usize::from(if holds { i.if_true } else { i.if_false });
            match i.code {
                LOAD => {
                    accumulator = match i.value {
                        NUMBER => number,
                        ARCH => arch,
                        offset => args[(offset as usize - 16) / 8] as u32,
                    }
                }
                JUMP => pc += i.value as usize,
                JUMP_EQ => pc += jump(accumulator == i.value),
                JUMP_GT => pc += jump(accumulator > i.value),
                JUMP_GE => pc += jump(accumulator >= i.value),
                JUMP_ANY => pc += jump(accumulator & i.value != 0),
                RETURN => return i.value,
                code => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn calls_get_their_outcome() {
        let filter = compile(&Profile::new(Architecture::X86_64, &DEFAULT));
        let (native, compat, arm) = (0xc000_003e, 0x4000_0003, 0xc000_00b7);
        let (eperm, enosys) = (FAIL + 1, FAIL + 38);
        // (what, ABI, number, first argument, expected)
        let cases = [
            ("read", native, 0, 0, ALLOW),
            ("mount", native, 165, 0, eperm),
            ("chroot", native, 161, 0, ALLOW),
            ("keyctl", native, 250, 0, eperm),
            ("bpf", native, 321, 0, eperm),
            ("io_uring_setup", native, 425, 0, eperm),
            ("clone3", native, 435, 0, enosys),
            ("clone as fork", native, 56, 17, ALLOW),
            ("clone new user ns", native, 56, 0x1000_0000, eperm),
            ("clone new net ns", native, 56, 0x4000_0011, eperm),
            ("socket inet", native, 41, 2, ALLOW),
            ("socket alg", native, 41, 38, eperm),
            ("socket kcm", native, 41, 41, ALLOW),
            ("socket vsock", native, 41, 40, eperm),
            (
                "socket alg, upper half set",
                native,
                41,
                (1 << 32) + 38,
                eperm,
            ),
            ("personality query", native, 135, 0xffff_ffff, ALLOW),
            ("personality no randomize", native, 135, 0x0004_0000, eperm),
            ("a call of the future", native, 5000, 0, enosys),
            ("x32 read", native, 0x4000_0000, 0, enosys),
            ("i386 read", compat, 3, 0, ALLOW),
            ("i386 mount", compat, 21, 0, eperm),
            ("i386 clone3", compat, 435, 0, enosys),
            ("another architecture", arm, 0, 0, enosys),
        ];
        for (what, arch, number, argument, expected) in cases {
            let got = run(&filter, arch, number, [argument, 0, 0, 0, 0, 0]);
            assert_eq!(got, expected, "{what}: {got:#x}");
        }
    }

    #[test]
    fn every_number_agrees_with_the_rules() {
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            let profile = Profile::new(architecture, &DEFAULT);
            let filter = compile(&profile);
            for (arch, number) in abis(architecture) {
                let verdicts = verdicts(&profile, number);
                for call in 0..600 {
                    let expected = match verdicts.get(&call) {
                        Some(Verdict::Outcome(outcome)) => returns(*outcome).value,
                        Some(Verdict::Checked(_)) => continue,
                        None if call > *verdicts.keys().last().unwrap() => FAIL + 38,
                        None => FAIL + 1,
                    };
                    assert_eq!(
                        run(&filter, arch, call, [0; 6]),
                        expected,
                        "{arch:#x} {call}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_program_is_short() {
        let filter = compile(&Profile::new(Architecture::X86_64, &DEFAULT));
        assert!(filter.0.len() < 500, "{}", filter.0.len());
    }
}
