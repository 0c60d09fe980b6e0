//! A datagram every few milliseconds, one way: how long does nothing arrive?

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use crate::{netns::Netns, worker::Worker};

/// Between two datagrams.
const INTERVAL: Duration = Duration::from_millis(5);

/// Sends and receives until closed.
pub struct Ticks {
    sender: Worker<()>,
    receiver: Worker<Heard>,
}

#[derive(Clone, Debug)]
pub struct Heard {
    pub received: u64,
    /// The longest time without a datagram, that after the last one included.
    pub pause: Duration,
}

impl Ticks {
    /// From a socket at `from` to one at `to`; nobody answers.
    pub fn start((sender, from): (&Netns, SocketAddr), (receiver, to): (&Netns, SocketAddr)) -> Self {
        let bind = |netns: &Netns, address: SocketAddr| {
            let bound = netns.run(|| UdpSocket::bind(address));
            bound.unwrap_or_else(|error| panic!("bind UDP {address}: {error}"))
        };
        let (sends, hears) = (bind(sender, from), bind(receiver, to));
        hears.set_read_timeout(Some(INTERVAL)).unwrap();
        let sender = Worker::start(sender, move |stop| {
            while !stop.load(Ordering::Relaxed) {
                // A way that is closed for a moment shows at the other end.
                let _ = sends.send_to(b"tick", to);
                thread::sleep(INTERVAL);
            }
        });
        let receiver = Worker::start(receiver, move |stop| {
            let mut heard = Heard { received: 0, pause: Duration::ZERO };
            let mut last = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let got = hears.recv(&mut [0; 16]).is_ok();
                heard.pause = heard.pause.max(last.elapsed());
                if got {
                    heard.received += 1;
                    last = Instant::now();
                }
            }
            heard
        });
        Self { sender, receiver }
    }

    pub fn close(self) -> Heard {
        self.sender.end();
        self.receiver.end()
    }
}
