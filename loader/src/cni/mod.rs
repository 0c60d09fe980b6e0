//! What does a container runtime ask for a container, and what is it told? The
//! plugin of the Container Network Interface, versions 0.3.0 to 1.1.0: it reads
//! the question from its environment and standard input, puts it to the agent,
//! and answers in the specification's words. Without a runtime of its own: it is
//! started for every container, and has nothing to wait for but one answer.

mod answer;
mod config;
mod error;
mod install;
mod question;

use std::{
    io::{self, Read, Write},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Value, json};

pub use install::{is_missing, put_configuration, put_plugin, remove_configuration};

use answer::Earlier;
use config::NetConf;
use error::{CniError, Code};
use question::{Question, Verb};

use crate::{
    runtime::{Agent, Pending},
    snapshot::{Attachment, COMMAND_TIMEOUT},
};

/// Newest last.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Spoken where nobody has said another.
const NEWEST: &str = "1.1.0";

/// Who can be told later is not waited for longer.
const BRIEFLY: Duration = Duration::from_secs(2);

/// Answers one question; the process's exit code.
pub fn main() -> ExitCode {
    if let Some(argument) = std::env::args().nth(1) {
        return about(&argument);
    }
    let mut config = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut config);
    let read = read.map_err(|error| CniError::new(Code::Io, format!("read the configuration: {error}")));
    let (version, outcome) = match read {
        Ok(_) => answer_to(|name| std::env::var(name).ok(), &config),
        Err(error) => (NEWEST.into(), Err(error)),
    };
    let (text, code) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(answer)) => (answer.to_string(), ExitCode::SUCCESS),
        Err(error) => (error.json(&version).to_string(), ExitCode::FAILURE),
    };
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn about(argument: &str) -> ExitCode {
    let version = format!("causeway-cni {}", env!("CARGO_PKG_VERSION"));
    if argument == "--version" {
        println!("{version}");
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "{version}: a CNI plugin ({}), called by container runtimes.\n\
         The question is in CNI_COMMAND and its like, the configuration on standard input: docs/cni.md.",
        VERSIONS.join(", ")
    );
    if argument == "--help" { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

/// The version to answer in, and the answer; `None`: success needs no words.
fn answer_to(
    environment: impl Fn(&str) -> Option<String>,
    config: &[u8],
) -> (String, Result<Option<Value>, CniError>) {
    let mut version = NEWEST.to_owned();
    let outcome = Verb::read(&environment).and_then(|verb| {
        let config = NetConf::read(config)?;
        if verb == Verb::Version {
            // Asked to find out which are: whatever is said, the list is the answer.
            version = config.version().unwrap_or(version.clone());
            return Ok(Some(json!({"cniVersion": version, "supportedVersions": VERSIONS})));
        }
        version = config.version()?;
        config.check(verb)?;
        obey(&Question::read(verb, &environment)?, &config, &version)
    });
    (version, outcome)
}

fn obey(question: &Question, config: &NetConf, version: &str) -> Result<Option<Value>, CniError> {
    let agent = Agent::new(config.socket(), COMMAND_TIMEOUT, BRIEFLY);
    match question.verb {
        Verb::Version => Ok(None),
        Verb::Add => {
            // Read first: who cannot be answered is not to be attached.
            let earlier = Earlier::read(config.previous.as_ref())?;
            let joined = agent.join(&config.join(question)?)?;
            Ok(Some(earlier.and(&joined, question, version)))
        }
        Verb::Del => {
            let attachment = config.named(question);
            match agent.leave(&attachment) {
                Ok(()) => {}
                // The runtime is to go on: whoever is the agent then, does it.
                Err(trouble) if !trouble.passes() => return Err(trouble.into()),
                Err(_) => note(&Pending::new(&config.state_dir()), &attachment)?,
            }
            Ok(None)
        }
        Verb::Check => {
            let there = agent.look(&config.named(question)).map_err(|trouble| match trouble.into() {
                CniError { code: Code::Refused, message, details } => {
                    CniError { code: Code::Changed, message, details }
                }
                error => error,
            })?;
            answer::compare(&there, &question.attachment.interface, config.previous.as_ref())?;
            Ok(None)
        }
        Verb::Gc => Ok(agent.keep(&config.keep()).map(|()| None)?),
        Verb::Status => match agent.ready() {
            Ok(()) => Ok(None),
            Err(trouble) => Err(CniError { code: Code::Unavailable, ..trouble.into() }),
        },
    }
}

/// The agent takes it away when it is there.
fn note(pending: &Pending, attachment: &Attachment) -> Result<(), CniError> {
    pending.note(attachment).map_err(|error| {
        let message = format!("no agent answers, and that it is to go cannot be noted: {error}");
        CniError::new(Code::Later, message).details("start the agent")
    })
}
