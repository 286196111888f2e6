//! Amounts of bytes, in powers of ten as all builders show them.

const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];

fn scaled(bytes: i64) -> (f64, &'static str) {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value.abs() >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    (value, UNITS[unit])
}

/// With two decimals: `2.41MB`.
pub(crate) fn bytes(bytes: i64) -> String {
    match scaled(bytes) {
        (value, "B") => format!("{value:.0}B"),
        (value, unit) => format!("{value:.2}{unit}"),
    }
}

/// With three digits, for tables: `2.41MB`, `24.1MB`, `241MB`.
pub(crate) fn short(bytes: i64) -> String {
    match scaled(bytes) {
        (value, "B") => format!("{value:.0}B"),
        (value, unit) if value.abs() < 9.995 => format!("{value:.2}{unit}"),
        (value, unit) if value.abs() < 99.95 => format!("{value:.1}{unit}"),
        (value, unit) => format!("{value:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_have_their_unit() {
        for (bytes, long, short) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1.00kB", "1.00kB"),
            (12_345, "12.35kB", "12.3kB"),
            (123_456_789, "123.46MB", "123MB"),
            (5_000_000_000, "5.00GB", "5.00GB"),
        ] {
            assert_eq!(super::bytes(bytes), long);
            assert_eq!(super::short(bytes), short);
        }
    }
}
