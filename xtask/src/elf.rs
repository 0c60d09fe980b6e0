//! For which machine is a binary, and what does it need beside itself?

use anyhow::{Context, Result, ensure};

const PROGRAM_HEADER: usize = 56;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;

#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    /// As container images name it (GOARCH).
    pub architecture: &'static str,
    /// Neither a loader nor a library is asked for.
    pub is_static: bool,
}

/// Reads a 64-bit little-endian ELF file.
///
/// # Errors
/// When the bytes are none, or of a machine that is not known.
pub fn read(binary: &[u8]) -> Result<Facts> {
    ensure!(binary.get(..6) == Some(b"\x7fELF\x02\x01"), "is no 64-bit little-endian ELF file");
    let architecture = match number::<2>(binary, 18)? {
        62 => "amd64",
        183 => "arm64",
        243 => "riscv64",
        other => anyhow::bail!("is for the machine {other} of ELF, which has no name here"),
    };
    let table = number::<8>(binary, 32)? as usize;
    let headers = (0..number::<2>(binary, 56)? as usize).map(|index| table + index * PROGRAM_HEADER);
    let mut is_static = true;
    for header in headers {
        match number::<4>(binary, header)? as u32 {
            PT_INTERP => is_static = false,
            PT_DYNAMIC => {
                let offset = number::<8>(binary, header + 8)? as usize;
                let entries = number::<8>(binary, header + 32)? as usize / 16;
                for entry in 0..entries {
                    is_static &= number::<8>(binary, offset + entry * 16)? != DT_NEEDED;
                }
            }
            _ => {}
        }
    }
    Ok(Facts { architecture, is_static })
}

/// A little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..).and_then(|rest| rest.get(..N)).context("is cut short")?;
    Ok(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_libraries_is_not_static() {
        // This test itself is linked as programs usually are.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!read(&own).unwrap().is_static);
        assert!(read(&own[..4096]).is_err());
        assert!(read(b"#!/bin/sh\n").is_err());
    }
}
