//! POL-02, POL-03: does every case of tests/netpol come out as it says, over
//! real connections of both families?

use std::path::Path;

use causeway_testkit::netpol::{Case, Stage};

#[test]
fn every_case_comes_out_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("netpol");
    let cases = Case::read_all(&folder).unwrap();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let stage = Stage::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let differences = stage.play(case);
        println!("{}: {} differences", case.name, differences.len());
        wrong.extend(differences.iter().map(|difference| format!("{}: {difference}", case.name)));
    }
    assert!(wrong.is_empty(), "{} ways differ:\n{}", wrong.len(), wrong.join("\n"));
}
