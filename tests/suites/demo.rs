//! Does the demo show what it should, its agents watching an API server? (Those
//! that read a directory are every other suite's.)

use std::process::Command;

use causeway_testkit::agent;

#[test]
fn the_demo_of_kubernetes_loses_nothing() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_causeway-demo"));
    let said = demo.args(["--kubernetes", "--quick"]).env("CAUSEWAY_BIN", agent::binary()).output().unwrap();
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success(), "{text}");
    for shown in ["API server http://192.168.77.200:6443", "source kubernetes: 7 objects", "Nothing was lost"]
    {
        assert!(text.contains(shown), "{shown}\n{text}");
    }
    assert!(!text.contains("source manifests"), "{text}");
}
