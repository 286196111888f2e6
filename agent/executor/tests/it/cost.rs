//! What a step costs, beside what it runs. A measurement, not a judgement: it prints, and only fails
//! if something doesn't work. `cargo test --release -p kiln-executor --test it cost -- --nocapture`.

use std::time::{Duration, Instant};

use crate::world::{Kind, World, shell};

async fn measure(kind: Kind, steps: usize) -> (Duration, Duration) {
    let world = World::new(kind);
    world.sh("echo x > /f").await.ok();
    let mut times = Vec::new();
    for _ in 0..steps {
        let container = world.container();
        let begin = Instant::now();
        world.run(container, shell("echo x > /f")).await.ok();
        times.push(begin.elapsed());
    }
    world.nothing_is_left().await;
    times.sort();
    (times[0], times[steps / 2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_costs() {
    for kind in [Kind::runc, Kind::slots] {
        let (least, median) = measure(kind, 20).await;
        println!("{kind:?}: least {least:.2?}, median {median:.2?}");
        assert!(least <= median);
    }
}
