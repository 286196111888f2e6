//! Names of signals for `STOPSIGNAL`.

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether a text is a number but 0, or a name with or without `SIG`; `RTMIN+1` to `RTMAX-1` too.
pub(crate) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str, most: u32| {
        let number = name
            .strip_prefix(prefix)
            .and_then(|n| n.parse::<u32>().ok());
        number.is_some_and(|number| (1..=most).contains(&number))
    };
    NAMES.contains(&name) || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for text in ["9", "SIGTERM", "kill", "RTMIN+3", "sigrtmax-14"] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["0", "", "SIG", "SIGX", "RTMIN+16"] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
