//! New connections at a steady rate: connect, ask, close.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{Report, request},
    netns::Netns,
    wire::{Answer, Protocol},
    worker::Worker,
};

/// Each worker waits for one connection at a time; several, so that a slow one
/// does not hold up the rate.
const WORKERS: u32 = 8;

/// Called with each answered request: when it began, and who answered.
pub type Witness = Arc<dyn Fn(Instant, &Answer) + Send + Sync>;

/// Runs until stopped.
pub struct ConnectLoad {
    total: Arc<Mutex<LoadReport>>,
    workers: Vec<Worker<()>>,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    pub report: Report,
    /// Microseconds from connect to answer, unsorted.
    pub latencies: Vec<u32>,
}

impl ConnectLoad {
    pub fn start(netns: &Netns, to: impl Into<SocketAddr>, rate_per_second: u32) -> Self {
        Self::start_with(netns, to, Protocol::Tcp, rate_per_second, Arc::new(|_, _| ()))
    }

    pub fn start_with(
        netns: &Netns,
        to: impl Into<SocketAddr>,
        protocol: Protocol,
        rate_per_second: u32,
        witness: Witness,
    ) -> Self {
        let to = to.into();
        let total = Arc::<Mutex<LoadReport>>::default();
        let interval = Duration::from_secs(1) * WORKERS / rate_per_second;
        let workers = (0..WORKERS)
            .map(|worker| {
                let (total, witness) = (total.clone(), witness.clone());
                Worker::start(netns, move |stop| {
                    let mut next = Instant::now() + interval * worker / WORKERS;
                    while !stop.load(Ordering::Relaxed) {
                        pause_until(&mut next, interval);
                        let begun = Instant::now();
                        let outcome = request(to, protocol);
                        if let Ok((answer, _)) = &outcome {
                            witness(begun, answer);
                        }
                        record(&total, outcome, begun);
                    }
                })
            })
            .collect();
        Self { total, workers }
    }

    /// What has happened so far.
    pub fn report(&self) -> LoadReport {
        self.total.lock().unwrap().clone()
    }

    pub fn stop(mut self) -> LoadReport {
        // All at once: each may be waiting for its turn.
        self.workers.iter().for_each(Worker::tell);
        self.workers.drain(..).for_each(Worker::end);
        self.report()
    }
}

impl LoadReport {
    /// The latency that `share` (0 to 1) of the requests stayed below.
    pub fn latency(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let index = (sorted.len() as f64 * share) as usize;
        let micros = sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0);
        Duration::from_micros(u64::from(micros))
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; p50 {:?}, p99 {:?}", self.report, self.latency(0.5), self.latency(0.99))?;
        write!(f, ", worst {:?}", self.latency(1.0))
    }
}

fn pause_until(next: &mut Instant, interval: Duration) {
    let now = Instant::now();
    if *next > now {
        thread::sleep(*next - now);
    } else if now - *next > interval * 10 {
        // Far behind (the machine is busy): carry on from here, no burst.
        *next = now;
    }
    *next += interval;
}

fn record(total: &Mutex<LoadReport>, outcome: io::Result<(Answer, SocketAddr)>, begun: Instant) {
    let micros = begun.elapsed().as_micros().min(u128::from(u32::MAX)) as u32;
    let mut total = total.lock().unwrap();
    total.latencies.push(micros);
    total.report.add(outcome);
}
