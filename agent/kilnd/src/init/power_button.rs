//! The ACPI power button, which is how a host asks a machine that doesn't listen to it otherwise.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

/// `struct input_event` of 64-bit machines: time (16 bytes), type, code, value.
const EVENT: usize = 24;
const KEY: u16 = 1;
const POWER: u16 = 116;

/// Watches every power button from threads of their own; `pressed` is cancelled when one is pressed.
pub(super) fn watch(pressed: &CancellationToken) {
    for device in buttons() {
        let pressed = pressed.clone();
        let watcher = std::thread::Builder::new().name("power-button".into());
        let started = watcher.spawn(move || {
            if let Err(error) = wait(&device) {
                tracing::warn!(%error, "the power button isn't watched");
                return;
            }
            tracing::info!("the power button was pressed");
            pressed.cancel();
        });
        if let Err(error) = started {
            tracing::warn!(%error, "the power button isn't watched");
        }
    }
}

fn buttons() -> Vec<PathBuf> {
    let Ok(devices) = fs::read_dir("/sys/class/input") else {
        return Vec::new();
    };
    let is_button = |path: &PathBuf| {
        fs::read_to_string(path.join("device/name")).is_ok_and(|name| name.trim() == "Power Button")
    };
    devices
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("event"))
        .filter(|entry| is_button(&entry.path()))
        .map(|entry| PathBuf::from("/dev/input").join(entry.file_name()))
        .collect()
}

fn wait(device: &PathBuf) -> std::io::Result<()> {
    let mut file = File::open(device)?;
    let mut event = [0; EVENT];
    loop {
        file.read_exact(&mut event)?;
        if is_press(&event) {
            return Ok(());
        }
    }
}

fn is_press(event: &[u8; EVENT]) -> bool {
    let kind = u16::from_ne_bytes([event[16], event[17]]);
    let code = u16::from_ne_bytes([event[18], event[19]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    (kind, code, value) == (KEY, POWER, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut event = [0xaa; EVENT];
            event[16..18].copy_from_slice(&kind.to_ne_bytes());
            event[18..20].copy_from_slice(&code.to_ne_bytes());
            event[20..].copy_from_slice(&value.to_ne_bytes());
            is_press(&event)
        };
        assert!(event(1, 116, 1));
        assert!(!event(1, 116, 0));
        assert!(!event(1, 30, 1));
        assert!(!event(0, 0, 0));
    }
}
