//! Which backends have a row? Those that a table names, each once, however
//! many tables name it.

use std::collections::HashMap;
use std::time::Duration;

use causeway_schema::{Backend, Port};

use super::ids::IdPool;
use super::ledger::Ledger;
use super::{Family, Map};

#[derive(Debug)]
pub struct Backends<A> {
    ids: HashMap<(A, Port), u32>,
    /// By id: how many tables name it.
    tables: Vec<u32>,
    pool: IdPool,
    /// Ids that may have lost their last table.
    idle: Vec<u32>,
    /// Rows of an earlier agent, which stay until it is known what is wanted.
    adopted: Vec<u32>,
}

impl<A: Family> Backends<A> {
    /// Takes over the image's rows. `stray` ids have rows that are not to be
    /// trusted.
    pub fn new(ledger: &Ledger<A>, capacity: u32, stray: Vec<u32>) -> Self {
        let rows = &ledger.image().backends;
        Self {
            ids: rows.iter().map(|(id, row)| ((row.addr, row.port), id)).collect(),
            tables: Vec::new(),
            pool: IdPool::adopt(0..capacity, rows.keys(), stray),
            idle: Vec::new(),
            adopted: rows.keys().collect(),
        }
    }

    /// The id of a backend; it goes with the next [`sweep`](Self::sweep)
    /// unless a table holds it by then.
    pub fn intern(&mut self, ledger: &mut Ledger<A>, addr: A, port: Port) -> Result<u32, Map> {
        if let Some(&id) = self.ids.get(&(addr, port)) {
            return Ok(id);
        }
        let id = self.pool.take().ok_or(Map::Backends)?;
        self.ids.insert((addr, port), id);
        self.idle.push(id);
        ledger.put_backend(id, Backend::new(addr, port));
        Ok(id)
    }

    pub fn hold(&mut self, id: u32) {
        let index = id as usize;
        if self.tables.len() <= index {
            self.tables.resize(index + 1, 0);
        }
        self.tables[index] += 1;
    }

    pub fn drop(&mut self, id: u32) {
        if let Some(count) = self.tables.get_mut(id as usize) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.idle.push(id);
            }
        }
    }

    /// Clears the rows that no table names.
    pub fn sweep(&mut self, ledger: &mut Ledger<A>) {
        for id in std::mem::take(&mut self.idle) {
            if self.tables.get(id as usize).is_some_and(|&count| count > 0) {
                continue;
            }
            let Some(row) = ledger.image().backends.get(&id).copied() else { continue };
            self.ids.remove(&(row.addr, row.port));
            if ledger.clear_backend(id) {
                self.pool.free(id);
            } else {
                self.pool.untake(id);
            }
        }
    }

    /// Rows of an earlier agent go as all others do.
    pub fn forget_adopted(&mut self) {
        self.idle.append(&mut self.adopted);
    }

    pub fn release(&mut self, now: Duration) -> bool {
        self.pool.release(now)
    }
}
