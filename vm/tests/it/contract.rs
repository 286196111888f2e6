//! What every driver owes (see `kiln_vm::driver`).

use std::sync::Arc;
use std::time::Duration;

use kiln_client::Client;
use kiln_config::HostSettings;
use kiln_vm::console::Console;
use kiln_vm::driver::{Driver, Machine, Service, StartOrder};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Endpoint;

use crate::bed::{Bed, PATIENCE, is_alive, kill};

pub(crate) const STOP: Duration = Duration::from_secs(30);

pub(crate) fn order(bed: &Bed) -> StartOrder {
    std::fs::create_dir_all(bed.paths.machine_dir()).unwrap();
    std::fs::create_dir_all(&bed.paths.state).unwrap();
    let settings = HostSettings::load(&bed.paths.settings_file()).unwrap();
    StartOrder {
        settings,
        paths: bed.paths.clone(),
        console: Console::open(&bed.paths.console_log()).unwrap(),
        progress: watch::channel(String::new()).0,
        repair_disk: false,
    }
}

pub(crate) async fn start(driver: &dyn Driver, bed: &Bed) -> Arc<dyn Machine> {
    driver.start(order(bed)).await.unwrap()
}

pub(crate) async fn client(machine: &Arc<dyn Machine>, service: Service) -> Client {
    let machine = Arc::clone(machine);
    let connector = tower::service_fn(move |_| {
        let machine = Arc::clone(&machine);
        async move {
            let stream = machine.connect(service).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    Client::from_channel(endpoint.connect_with_connector(connector).await.unwrap())
}

/// The suite. `settings` is for the driver to work with here.
pub(crate) async fn suite(driver: &dyn Driver, settings: &str) {
    let bed = Bed::new(settings);
    let machine = start(driver, &bed).await;
    let facts = machine.facts();
    assert!(
        is_alive(facts.pid) && facts.cpus > 0 && facts.memory > 0,
        "{facts:?}"
    );

    // Streams are many, and one that nobody reads holds up no other.
    let stalled = machine.connect(Service::Buildkit).await.unwrap();
    for service in [Service::Buildkit, Service::Agent] {
        let client = client(&machine, service).await;
        timeout(PATIENCE, client.info()).await.unwrap().unwrap();
    }
    drop(stalled);

    // It ends in order, keeps its state, and starts again.
    machine.stop(STOP).await;
    machine.ended().await;
    assert!(!is_alive(facts.pid));
    assert!(machine.connect(Service::Buildkit).await.is_err());
    drop(machine);
    let machine = start(driver, &bed).await;

    // Its death is told, and the next one starts from what is left.
    let pid = machine.facts().pid;
    kill(pid, "KILL");
    let reason = timeout(PATIENCE, machine.ended()).await.unwrap();
    assert!(reason.contains("signal: 9"), "{reason}");
    drop(machine);
    let machine = start(driver, &bed).await;
    client(&machine, Service::Buildkit)
        .await
        .info()
        .await
        .unwrap();

    // A dropped one is on its way out, and the next start waits for it.
    let pid = machine.facts().pid;
    drop(machine);
    let machine = start(driver, &bed).await;
    assert!(!is_alive(pid));
    machine.stop(STOP).await;

    // A start that is given up leaves nothing that a later one would trip over.
    let given_up = timeout(Duration::from_millis(5), driver.start(order(&bed))).await;
    drop(given_up);
    let machine = start(driver, &bed).await;
    machine.stop(STOP).await;
}
