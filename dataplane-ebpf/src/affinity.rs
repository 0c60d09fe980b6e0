//! Does a client of a service with affinity go back to the backend it had?
//! Asked once per new flow, in a program of its own; other services pay one
//! test of a flag for it.

use aya_ebpf::{helpers::bpf_jiffies64, programs::TcContext};
use causeway_schema::{Client, ClientKey, FlowKey, Member, MemberKey, Service};

use crate::{
    act, decide,
    family::Family,
    loose, maps,
    refuse::Refuse,
    service::{self, Choice, Chosen},
    slow, trace,
};

/// Goes on for the slow program with a new flow to such a service.
#[inline(always)]
pub fn run<A: Refuse>(ctx: &TcContext) -> i32 {
    let Some(loose) = loose::held::<A>() else { return act::broken(ctx) };
    let (side, dry) = (loose.side, trace::is_dry(ctx));
    let Some(row) = service::row::<A>(loose.service) else { return act::broken(ctx) };
    let choice = service::choose_for(&row, &loose.packet.key);
    let choice = choose(loose.service, &row, &loose.packet.key, choice, dry);
    let step = decide::begin_with(ctx, side, loose, &row, choice);
    slow::go_on(ctx, side, loose, step)
}

/// The backend for a new flow to service `id`, by its first packet: the one that
/// its client had last at any port of the service object, if that was recently and
/// it still serves; or else the hash's, `choice`, which is remembered.
#[inline(always)]
pub fn choose<A: Family>(
    id: u32,
    service: &Service,
    packet: &FlowKey<A>,
    choice: Choice<A>,
    dry: bool,
) -> Choice<A> {
    let Choice::Backend(fresh) = &choice else { return choice };
    let Some(settings) = A::member(&MemberKey::settings(id)) else { return choice };
    let key = ClientKey { client: packet.src, group: settings.group };
    let fresh = Client { backend: fresh.addr, last_used: seconds() };
    for _ in 0..2 {
        if let Some(backend) = remembered(id, service, &key, &settings, fresh.last_used, dry) {
            return Choice::Backend(backend);
        }
        // Of two flows of a client that begin at a time, the second goes with the first.
        if dry || A::remember(&key, &fresh) {
            break;
        }
    }
    choice
}

#[inline(always)]
fn remembered<A: Family>(
    id: u32,
    service: &Service,
    key: &ClientKey<A>,
    settings: &Member,
    now: u32,
    dry: bool,
) -> Option<Chosen<A>> {
    let last = A::client(key)?;
    // SAFETY: map values stay readable until the program ends (RCU).
    let Client { backend, last_used } = unsafe { *last };
    // Signed: another CPU may have written a second that began after `now`.
    let chosen = if (now.wrapping_sub(last_used) as i32) < settings.timeout as i32 {
        A::member(&MemberKey::new(id, backend)).and_then(|member| service::serving(service, member.backend))
    } else {
        None
    };
    // The row behind the id may be another's by now.
    match chosen.filter(|chosen| chosen.addr == backend) {
        Some(chosen) => {
            if !dry && last_used != now {
                // SAFETY: as above; another CPU writes the same second.
                unsafe { (*last).last_used = now };
            }
            Some(chosen)
        }
        None => {
            if !dry {
                // In the way of what takes its place.
                A::forget(key);
            }
            None
        }
    }
}

/// Whole seconds of the kernel's clock.
#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: a plain helper, inlined by the verifier.
    let ticks = unsafe { bpf_jiffies64() };
    // Never zero: what the agent sets is known to the verifier.
    (ticks / u64::from(maps::TICKS_PER_SECOND.load().max(1))) as u32
}
