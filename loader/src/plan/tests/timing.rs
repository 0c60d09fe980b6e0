//! How long do plans take? Printed, not asserted: `--nocapture` shows it.

use std::time::Instant;

use causeway_schema::V4;

use super::world::*;
use crate::kernel::Tables;
use crate::kernel::memory::MemoryTables;
use crate::model::desired::Service;
use crate::plan::{Capacity, Digest, Planner, audit, confirm};

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

#[test]
fn ten_thousand_services() {
    let world: Services = (0..10_000u32)
        .map(|number| {
            let mut service = service(&[(1, 80)], &[]);
            let [_, _, high, low] = number.to_be_bytes();
            service.frontends[0].address = [10, 96, high, low].into();
            for backend in 0..5 {
                let [_, a, b, c] = (number * 5 + backend).to_be_bytes();
                let mut template = super::world::service(&[], &[(1, 8080, 1)]).backends.remove(0);
                template.address = [10, a, b, c].into();
                service.backends.push(template);
            }
            (id(&format!("s{number}")), service)
        })
        .collect();

    let mut planner: Planner<V4> = Planner::new(Capacity::default());
    let mut tables = MemoryTables::new(Capacity::default());
    let steps = timed("10,000 x 5 from nothing", || planner.update(world.iter().map(|(k, v)| (k, Some(v)))));
    println!("{} steps", steps.len());
    timed("apply to memory", || assert!(tables.apply(&steps).is_empty()));
    timed("confirm", || assert!(confirm(&steps, &tables).unwrap().is_empty()));
    timed("audit", || assert!(audit(planner.image(), &tables).unwrap().is_empty()));
    timed("digest of the maps", || Digest::of_rows(&tables).unwrap());
    timed("digest of the image", || Digest::of_image(planner.image()));
    let mut adopted = timed("adopt", || Planner::adopt(Capacity::default(), &tables).unwrap());
    timed("the same world again", || {
        assert_eq!(adopted.update(world.iter().map(|(k, v)| (k, Some(v)))), []);
        assert_eq!(adopted.prune(), []);
    });

    let mut changed: Vec<(_, Service)> = world.into_iter().take(100).collect();
    changed.iter_mut().for_each(|(_, service)| drop(service.backends.pop()));
    timed("100 services lose a backend, one plan each", || {
        for (name, service) in &changed {
            assert_eq!(planner.update([(name, Some(service))]).len(), 3);
        }
    });
    let many: Vec<_> = (0..100).map(|number| (number, 80, 1)).collect();
    let many = service(&[(200, 80)], &many);
    timed("a new service of 100 backends", || planner.update([(&id("maglev"), Some(&many))]));
}
