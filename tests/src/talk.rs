//! Does everything that talks go on talking? Streams and datagrams, and the
//! longest time that each of them was silent.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{netns::Netns, streams::Streams, ticks::Ticks};

/// No interruption is longer.
pub const GAP: Duration = Duration::from_secs(1);
const STREAMS: usize = 3;
/// Between two lines of a stream.
const INTERVAL: Duration = Duration::from_millis(5);

/// What talks at the same time, until judged.
#[derive(Default)]
pub struct Talk {
    ticks: Vec<(SocketAddr, Ticks)>,
    streams: Vec<(SocketAddr, Streams)>,
}

impl Talk {
    /// Datagrams that nobody answers.
    pub fn one_way(&mut self, (sender, from): (&Netns, IpAddr), (receiver, to): (&Netns, SocketAddr)) {
        let ticks = Ticks::start((sender, SocketAddr::new(from, 0)), (receiver, to));
        self.ticks.push((to, ticks));
    }

    /// Lines that a server at `to` sends back.
    pub fn both_ways(&mut self, netns: &Netns, to: SocketAddr) {
        self.streams.push((to, Streams::open(netns, to, STREAMS, INTERVAL)));
    }

    /// Ends it all; nothing was lost for good, or silent for long.
    pub fn assert_uninterrupted(self, what: &str) {
        let mut pauses = Vec::new();
        for (to, ticks) in self.ticks {
            let heard = ticks.close();
            assert!(heard.received > 100, "{what}, one way to {to}: {heard:?}");
            pauses.push((format!("one way to {to}"), heard.pause));
        }
        for (to, streams) in self.streams {
            let report = streams.close();
            report.assert_clean(STREAMS);
            pauses.push((format!("both ways to {to}"), report.slowest));
        }
        for (way, pause) in &pauses {
            println!("{what}, {way}: {pause:?}");
        }
        let longest = pauses.iter().map(|(_, pause)| *pause).max().unwrap_or_default();
        assert!(longest <= GAP, "{what}: {pauses:?}");
    }
}
