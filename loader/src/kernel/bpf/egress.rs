//! The egress maps of both families: under which address containers leave, and
//! which of these addresses this node holds.

use std::{collections::BTreeMap, io, net::IpAddr, os::fd::OwnedFd};

use causeway_schema::{Egress, V4, V6};

use super::{BpfError, batch, object::Object, sys};
use crate::{egress::Leaves, plan::Family};

pub struct EgressTables {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl EgressTables {
    pub(super) fn open(object: &Object) -> Result<Self, BpfError> {
        Ok(Self { v4: object.map("EGRESS_V4")?, v6: object.map("EGRESS_V6")? })
    }

    /// What is there, whoever wrote it.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn rows(&self) -> io::Result<BTreeMap<IpAddr, Leaves>> {
        let mut rows = read::<V4>(&self.v4)?;
        rows.extend(read::<V6>(&self.v6)?);
        Ok(rows)
    }

    /// # Errors
    /// When a map is full.
    pub fn put(&self, key: IpAddr, row: Leaves) -> io::Result<()> {
        match key {
            IpAddr::V4(_) => put::<V4>(&self.v4, key, row),
            IpAddr::V6(_) => put::<V6>(&self.v6, key, row),
        }
    }

    /// # Errors
    /// As of a system call; a row that is not there is none.
    pub fn delete(&self, key: IpAddr) -> io::Result<()> {
        let deleted = match key {
            IpAddr::V4(key) => sys::map_delete(&self.v4, &V4::from(key)),
            IpAddr::V6(key) => sys::map_delete(&self.v6, &V6::from(key)),
        };
        match deleted {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

fn read<A: Family>(map: &OwnedFd) -> io::Result<BTreeMap<IpAddr, Leaves>> {
    let rows: Vec<(A, Egress<A>)> = batch::read(map)?;
    let leaves = |row: Egress<A>| Leaves {
        address: row.address.to_ip(),
        node: (row.node != A::UNSPECIFIED).then(|| row.node.to_ip()),
    };
    Ok(rows.into_iter().map(|(key, row)| (key.to_ip(), leaves(row))).collect())
}

/// What is of another family is nothing that was ever decided.
fn put<A: Family>(map: &OwnedFd, key: IpAddr, row: Leaves) -> io::Result<()> {
    let (Some(key), Some(address)) = (A::from_ip(key), A::from_ip(row.address)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let node = row.node.and_then(A::from_ip).unwrap_or(A::UNSPECIFIED);
    sys::map_update(map, &key, &Egress { address, node })
}
