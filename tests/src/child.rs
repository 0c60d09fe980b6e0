//! Programs that tests start, and that do not outlive them.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::{LazyLock, Mutex, mpsc},
    thread,
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Starts a child that dies with this process, even when that is killed.
pub fn spawn(mut command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    // The kernel ties a child's death to the thread that started it: one
    // thread that lives as long as the process starts them all.
    static KEEPER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    let name = command.get_program().to_owned();
    let (reply, child) = mpsc::channel();
    KEEPER.send((command, reply)).unwrap();
    let child = child.recv().unwrap().unwrap_or_else(|error| panic!("start {}: {error}", name.display()));
    CHILDREN.lock().unwrap().push(child.id());
    child
}

/// Sends a signal, and waits until it has ended.
pub fn end(mut child: Child, signal: Signal) {
    signal_to(child.id(), signal);
    let _ = child.wait();
    CHILDREN.lock().unwrap().retain(|&pid| pid != child.id());
}

/// One that has ended already is no error.
pub fn signal_to(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// Kills all that this process has started: for an exit in a hurry.
pub fn kill_all() {
    for pid in CHILDREN.lock().unwrap().drain(..) {
        signal_to(pid, Signal::SIGKILL);
    }
}
