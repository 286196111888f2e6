//! The native driver.

use kiln_vm::driver::native::Native;
use kiln_vm::driver::{Driver as _, StartError};

use crate::bed::{Bed, kilnd, vmd_program};
use crate::contract::{STOP, order, start, suite};

fn native() -> Native {
    Native {
        own: vmd_program().to_owned(),
        kilnd: Some(kilnd()),
    }
}

#[tokio::test]
async fn native_keeps_the_contract() {
    suite(&native(), "driver = \"native\"").await;
}

#[tokio::test]
async fn native_says_what_is_missing_or_without_effect() {
    let bed = Bed::native("cpus = 2\nca-files = [\"/nonexistent.pem\"]");
    let mut driver = native();
    let error = driver.start(order(&bed)).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent.pem"), "{error}");
    driver.kilnd = None;
    let error = driver.start(order(&bed)).await.unwrap_err();
    assert!(
        matches!(error, StartError::Missing { what: "kilnd", .. }),
        "{error}"
    );
    let bed = Bed::native("cpus = 2");
    let machine = start(&native(), &bed).await;
    let notices = machine.facts().notices.concat();
    assert!(notices.contains("cpus"), "{notices}");
    machine.stop(STOP).await;
}
