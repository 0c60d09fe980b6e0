//! What the choice promises (TARGET SVC-02), checked without a kernel.

extern crate std;

use std::{vec, vec::Vec};

use super::{Lot, RENDEZVOUS_MAX, choose, maglev, rendezvous};
use crate::{Algorithm, Cell, Port, Target, V4, hash};

const FLOWS: u64 = 50_000;

fn lots(weights: &[u32]) -> Vec<Lot> {
    let mut lots: Vec<Lot> = (0..)
        .zip(weights)
        .map(|(id, &weight)| Lot {
            seed: hash::backend_seed(&V4([10, 244, (id >> 8) as u8, id as u8]), Port::NONE),
            weight,
            backend: id,
        })
        .collect();
    lots.sort_unstable();
    lots
}

/// The table and target that the planner would build.
fn table(lots: &[Lot]) -> (Vec<Cell>, Target) {
    if lots.len() <= RENDEZVOUS_MAX {
        let mut cells = vec![Cell::ZERO; rendezvous::cells(lots.len())];
        rendezvous::fill(lots, &mut cells);
        let weighted = lots.iter().any(|lot| lot.weight != lots[0].weight);
        let algorithm = if weighted { Algorithm::RendezvousWeighted } else { Algorithm::Rendezvous };
        (cells, Target::new(0, lots.len() as u32, algorithm, Port::NONE))
    } else {
        let length = maglev::length(lots.len());
        let mut cells = vec![Cell::ZERO; maglev::cells(length, lots.len())];
        maglev::fill(lots, length, &mut vec![maglev::Walk::default(); lots.len()], &mut cells);
        (cells, Target::new(0, length, Algorithm::Maglev, Port::NONE))
    }
}

fn winners(lots: &[Lot]) -> Vec<u32> {
    let (cells, target) = table(lots);
    (0..FLOWS).map(|flow| choose(cells.as_slice(), target, hash::mix(flow)).unwrap()).collect()
}

/// Flows that move although their backend stays, when `leaver` goes.
fn moved(lots: &[Lot], leaver: u32) -> usize {
    let rest: Vec<Lot> = lots.iter().copied().filter(|lot| lot.backend != leaver).collect();
    let pairs = winners(lots).into_iter().zip(winners(&rest));
    pairs.filter(|&(before, after)| before != leaver && before != after).count()
}

fn assert_shares(weights: &[u32], tolerance: f64) {
    let winners = winners(&lots(weights));
    let total: u32 = weights.iter().sum();
    for (id, &weight) in (0..).zip(weights) {
        let got = winners.iter().filter(|&&winner| winner == id).count() as f64 / FLOWS as f64;
        let ideal = f64::from(weight) / f64::from(total);
        assert!((got - ideal).abs() < tolerance, "backend {id}: {got:.4}, ideal {ideal:.4}");
    }
}

#[test]
fn a_small_set_that_loses_one_moves_no_other_flow() {
    for weights in [vec![1; 10], vec![1; 52], vec![3, 1, 2, 5, 5, 1, 1, 9, 2, 4]] {
        let lots = lots(&weights);
        for leaver in 0..weights.len() as u32 {
            // Weights stay unequal when one leaves, so the algorithm stays too.
            assert_eq!(moved(&lots, leaver), 0, "{weights:?} without {leaver}");
        }
    }
}

#[test]
fn a_set_of_100_that_loses_one_moves_at_most_one_percent_of_the_others() {
    let lots = lots(&[1; 100]);
    for leaver in [0, 17, 50, 99] {
        let moved = moved(&lots, leaver);
        assert!(moved as u64 * 100 <= FLOWS, "{moved} of {FLOWS} moved");
    }
}

#[test]
fn shares_follow_weights_within_two_percent() {
    assert_shares(&[1; 5], 0.02);
    assert_shares(&[1, 2, 4], 0.02);
    assert_shares(&[10, 1000, 500], 0.02);
    let mixed: Vec<u32> = (0..100).map(|id| 1 + id % 3).collect();
    assert_shares(&mixed, 0.02);
}

#[test]
fn a_maglev_table_shares_its_slots_exactly() {
    let lots = lots(&[1; 100]);
    let length = maglev::length(lots.len());
    let (cells, _) = table(&lots);
    let slots: &[u16] = bytemuck::cast_slice(&cells);
    for index in 0..100 {
        let share = slots[..length as usize].iter().filter(|&&slot| slot == index).count();
        let ideal = length as usize / 100;
        assert!(share == ideal || share == ideal + 1, "{share} slots, ideal {ideal}");
    }
}

#[test]
fn the_largest_set_still_fits_its_table() {
    let lots = lots(&vec![1; maglev::MAX_BACKENDS]);
    let chosen = winners(&lots);
    assert!(chosen.into_iter().all(|backend| (backend as usize) < maglev::MAX_BACKENDS));
}

#[test]
fn a_truncated_table_chooses_nothing_rather_than_something_wrong() {
    let (cells, target) = table(&lots(&[1; 20]));
    assert_eq!(choose(&cells[..1], target, 7), None);
    assert_eq!(choose(cells.as_slice(), Target::EMPTY, 7), None);
}
