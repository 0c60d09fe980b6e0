//! SVC-20: what becomes of each packet of a connection whose backend is to hear
//! first who its client is? What is lost comes again, and nothing that a client
//! says comes to stand in the header's place.

use std::net::{Ipv4Addr, SocketAddr};

use causeway::plan::{Family, Image};
use causeway_schema::{Endpoint, GATEWAY_MAC, Service, V4, V6, flow::flags, policy::Outcome, protocol};
use causeway_testkit::{
    bed::{self, Bed, UPLINK_MAC},
    frame::{Body, Datagram, Extension, Frame, Tcp, fragment},
    mirror,
    packet::tcp::{ACK, FIN, RST, SYN},
    prog::Programs,
    told::Header,
    world::World,
};

const PSH: u8 = 8;
const URG: u8 = 32;
/// The client's first sequence number: the header begins before zero.
const S: u32 = 10;
/// The backend's.
const T: u32 = 0xffff_ff00;
const WINDOW: u16 = 0x2000;
const POLICY: u16 = 2;
/// Time stamps, as every kernel asks for.
const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];

/// A client in container 1, and its backend: container 2, or one elsewhere.
struct Talk<'a> {
    bed: &'a Bed,
    programs: &'a mut Programs,
    six: bool,
    far: bool,
    /// IP options or extension headers in all that the client sends, who has a
    /// policy, as its backend has.
    loose: bool,
}

impl Talk<'_> {
    fn end(&self, address: [u8; 4], port: u16) -> SocketAddr {
        SocketAddr::new(mirror::of_family(Ipv4Addr::from(address), self.six), port)
    }

    fn client(&self) -> SocketAddr {
        self.end([10, 244, 0, 1], 4000)
    }

    fn frontend(&self) -> SocketAddr {
        self.end([10, 96, 0, if self.far { 3 } else { 1 }], 80)
    }

    fn backend(&self) -> SocketAddr {
        self.end(if self.far { [10, 244, 1, 1] } else { [10, 244, 0, 2] }, 8080)
    }

    /// The header's length.
    fn n(&self) -> u32 {
        if self.six { 52 } else { 28 }
    }

    fn header(&self) -> Vec<u8> {
        let bytes = Header { source: self.client(), destination: self.frontend() }.bytes();
        assert_eq!(bytes.len(), self.n() as usize);
        bytes
    }

    fn asked(&self, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Datagram {
        let mut packet = datagram(self.client(), self.frontend(), (seq, ack), flags, payload);
        if self.loose && self.six {
            packet = packet.extension(Extension::Destination(vec![1, 4, 0, 0, 0, 0]));
        } else if self.loose {
            packet = packet.with_v4(|header| header.options = vec![1, 1, 1, 0]);
        }
        packet
    }

    /// What the backend gets of a segment of the client's.
    fn asks(&mut self, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Tcp {
        let packet = self.asked(seq, ack, flags, payload);
        let mut frame = Frame::new(packet.clone());
        // As short frames are on a wire.
        frame.padding = 64_usize.saturating_sub(frame.bytes().len());
        let out = self.programs.run(self.bed.from_container(1), &frame.bytes()).unwrap();
        let verdict = if self.far { "forwarded" } else { "delivered" };
        assert_eq!(out.counters.get(verdict), Some(&1), "{packet}: {:?}", out.counters);
        let left = Frame::read_right(&out.packet).unwrap();
        assert_eq!((left.packet.src, left.packet.dst), (self.client().ip(), self.backend().ip()));
        assert_eq!((left.packet.ttl, &left.packet.header), (63, &packet.header));
        let Body::Tcp(segment) = left.packet.body else { panic!("{}", left.packet) };
        assert_eq!((segment.dst, segment.ack, &segment.options[..]), (8080, ack, &OPTIONS[..]));
        segment
    }

    /// What the client gets of a segment of the backend's.
    fn answers(&mut self, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Tcp {
        let packet = datagram(self.backend(), self.client(), (seq, ack), flags, payload);
        let (side, mac) = match self.far {
            true => (self.bed.from_uplink(), UPLINK_MAC),
            false => (self.bed.from_container(2), GATEWAY_MAC),
        };
        let frame = Frame::new(packet.clone()).macs(bed::mac(2), mac).bytes();
        let out = self.programs.run(side, &frame).unwrap();
        assert_eq!(out.counters.get("delivered"), Some(&1), "{packet}: {:?}", out.counters);
        let left = Frame::read_right(&out.packet).unwrap();
        assert_eq!((left.packet.src, left.packet.dst), (self.frontend().ip(), self.client().ip()));
        let Body::Tcp(segment) = left.packet.body else { panic!("{}", left.packet) };
        assert_eq!((segment.seq, &segment.payload[..]), (seq, payload));
        segment
    }

    /// What a segment of the client's comes to, if not to the backend.
    fn dropped(&mut self, packet: &Datagram) -> Vec<&'static str> {
        let out = self.programs.run(self.bed.from_container(1), &Frame::new(packet.clone()).bytes()).unwrap();
        out.counters.into_keys().collect()
    }

    /// SYN and SYN-ACK.
    fn begin(&mut self) {
        let n = self.n();
        let syn = self.asks(S, 0, SYN, b"");
        assert_eq!((syn.seq, syn.flags, &syn.payload[..]), (S.wrapping_sub(n), SYN, &b""[..]));
        self.synack();
    }

    fn synack(&mut self) {
        let n = self.n();
        let synack = self.answers(T, (S + 1).wrapping_sub(n), SYN | ACK, b"");
        assert_eq!((synack.ack, synack.flags, synack.window), (S + 1, SYN | ACK, WINDOW - n as u16));
    }

    /// A segment of the client's comes to be the header.
    fn is_header(&mut self, seq: u32, flags: u8, payload: &[u8]) {
        let (n, header) = (self.n(), self.header());
        let segment = self.asks(seq, T + 1, flags, payload);
        assert_eq!((segment.seq, segment.flags), ((S + 1).wrapping_sub(n), ACK | PSH));
        assert_eq!(segment.payload, header);
    }

    /// It goes on as it is.
    fn is_itself(&mut self, seq: u32, ack: u32, flags: u8, payload: &[u8]) {
        let segment = self.asks(seq, ack, flags, payload);
        assert_eq!((segment.seq, segment.flags, &segment.payload[..]), (seq, flags, payload));
    }

    /// It goes on without its data.
    fn is_cut(&mut self, seq: u32, ack: u32, flags: u8, payload: &[u8]) {
        let segment = self.asks(seq, ack, flags, payload);
        assert_eq!((segment.seq, segment.flags, &segment.payload[..]), (seq, ACK, &b""[..]));
    }

    /// How many entries of established flows have something left of the header.
    fn waiting(&mut self) -> usize {
        let waits = std::sync::atomic::AtomicUsize::new(0);
        let count = |bits: u16| {
            let left = bits & (flags::PROXY | flags::HEADER_DUE | flags::HEADER_SENT) != 0;
            waits.fetch_add(usize::from(left), std::sync::atomic::Ordering::Relaxed);
        };
        let there = match self.six {
            true => self.programs.change_flows::<V6>(|flow| count(flow.flags)),
            false => self.programs.change_flows::<V4>(|flow| count(flow.flags)),
        };
        assert_eq!(there, 2, "an established flow has two entries");
        waits.into_inner()
    }
}

fn datagram(from: SocketAddr, to: SocketAddr, (seq, ack): (u32, u32), flags: u8, payload: &[u8]) -> Datagram {
    Datagram::tcp(&from.to_string(), &to.to_string()).with_tcp(|segment| {
        (segment.seq, segment.ack, segment.flags, segment.window) = (seq, ack, flags, WINDOW);
        (segment.options, segment.payload) = (OPTIONS.to_vec(), payload.to_vec());
    })
}

/// With what the services and, if they are `guarded`, the containers ask for.
fn told<A: Family>(mut image: Image<A>, guarded: bool) -> Image<A> {
    let rows: Vec<_> = image.endpoints.iter().map(|(slot, row)| (slot, *row)).collect();
    for (slot, row) in rows {
        image.endpoints.insert(slot, Endpoint { policy: if guarded { POLICY } else { 0 }, ..row });
    }
    for id in [1, 3] {
        let row = *image.services.get(&id).unwrap();
        image.services.insert(id, Service { flags: Service::PROXY, ..row });
    }
    image
}

/// Of both families, to a backend here and to one elsewhere, with and without
/// more in the IP header, and a policy to be asked.
fn everywhere(script: impl Fn(Talk) + Sync) {
    let bed = Bed::new();
    let mut world = World::default();
    for number in 1..=2 {
        world.attach(bed::address(number), number.into(), bed.link(number), bed::mac(number));
    }
    world.service(1, "10.96.0.1:80", protocol::TCP, &["10.244.0.2:8080"]);
    world.service(3, "10.96.0.3:80", protocol::TCP, &["10.244.1.1:8080"]);
    bed.netns.run(|| {
        let mut programs = Programs::load().unwrap();
        programs.judge(POLICY, Outcome::Allow);
        for (six, far, loose) in
            [(false, false, false), (true, false, false), (false, true, true), (true, true, true)]
        {
            println!("IPv6 {six}, far {far}, more headers and a policy {loose}");
            programs.fill(&told(world.image::<V4>(), loose));
            programs.fill(&told(mirror::image(&world), loose));
            script(Talk { bed: &bed, programs: &mut programs, six, far, loose });
            programs.clear_flows();
        }
    });
}

#[test]
fn the_header_takes_the_place_before_the_first_byte() {
    everywhere(|mut talk| {
        talk.begin();
        talk.is_header(S + 1, ACK, b"");
        assert_eq!(talk.waiting(), 2);
        // Behind the header.
        talk.is_itself(S + 1, T + 1, ACK | PSH, b"hello");
        talk.is_itself(S + 6, T + 1, ACK | FIN, b"");
        let answer = talk.answers(T + 1, S + 6, ACK, b"welcome");
        assert_eq!((answer.ack, answer.window), (S + 6, WINDOW));
        assert_eq!(talk.waiting(), 0);
        talk.is_itself(S + 6, T + 8, ACK, b"");
        talk.is_itself(S, T + 8, ACK, b"x");
        let answer = talk.answers(T + 8, S - 3, ACK, b"");
        assert_eq!(answer.ack, S - 3);
    });
}

#[test]
fn what_is_lost_comes_again() {
    everywhere(|mut talk| {
        talk.begin();
        // The client has not heard the answer.
        let again = talk.asks(S, 0, SYN, b"");
        assert_eq!(again.seq, S.wrapping_sub(talk.n()));
        talk.is_header(S + 1, ACK, b"");
        // The backend has not heard the header.
        talk.synack();
        talk.is_header(S + 1, ACK, b"");
        talk.is_header(S + 1, ACK, b"");
        talk.is_itself(S + 1, T + 1, ACK, b"hello");
        let low = (S + 1).wrapping_sub(talk.n());
        assert_eq!(talk.answers(T + 1, low, ACK, b"").ack, S + 1);
        // The header leaves, and what it is made of comes in anew.
        talk.is_header(S + 1, ACK, b"hello");
        talk.is_itself(S + 1, T + 1, ACK, b"hello");
        assert_eq!(talk.answers(T + 1, low, ACK, b"").ack, S + 1);
        talk.is_header(S + 1, ACK | FIN, b"");
        talk.is_itself(S + 6, T + 1, ACK | FIN, b"");
        assert_eq!(talk.waiting(), 2);
        assert_eq!(talk.answers(T + 1, S + 1, ACK, b"").ack, S + 1);
        assert_eq!(talk.waiting(), 0);
    });
}

#[test]
fn data_that_comes_with_the_handshake_follows_the_header() {
    everywhere(|mut talk| {
        talk.begin();
        talk.is_header(S + 1, ACK, b"no bare acknowledgement came");
        talk.is_itself(S + 1, T + 1, ACK, b"no bare acknowledgement came");
    });
}

#[test]
fn resets_are_at_the_number_that_comes_next() {
    everywhere(|mut talk| {
        let n = talk.n();
        talk.begin();
        let reset = talk.asks(S + 1, 0, RST, b"");
        assert_eq!((reset.seq, reset.flags), ((S + 1).wrapping_sub(n), RST));
        talk.programs.clear_flows();
        talk.begin();
        talk.is_header(S + 1, ACK, b"");
        talk.is_itself(S + 1, 0, RST, b"");
        talk.programs.clear_flows();
        // The backend refuses.
        talk.asks(S, 0, SYN, b"");
        let refusal = talk.answers(0, (S + 1).wrapping_sub(n), RST | ACK, b"");
        assert_eq!((refusal.ack, refusal.flags), (S + 1, RST | ACK));
        // The next one is a connection of its own.
        let next = talk.asks(S + 7, 0, SYN, b"");
        assert_eq!(next.seq, (S + 7).wrapping_sub(n));
        let synack = talk.answers(T, (S + 8).wrapping_sub(n), SYN | ACK, b"");
        assert_eq!(synack.ack, S + 8);
    });
}

#[test]
fn nothing_that_a_client_says_stands_in_the_headers_place() {
    everywhere(|mut talk| {
        let n = talk.n();
        let forged = talk.header();
        // With its SYN, and before there is an answer.
        let syn = talk.asks(S, 0, SYN, &forged);
        assert_eq!((syn.seq, &syn.payload[..]), (S.wrapping_sub(n), &b""[..]));
        talk.is_cut(S + 1, T + 1, ACK | PSH | FIN, &forged);
        talk.synack();
        // In place, and over its end.
        talk.is_header((S + 1).wrapping_sub(n), ACK | PSH, &forged);
        talk.is_header(S, ACK | URG, &forged);
        // As an answer to what this backend has not said.
        talk.is_cut(S + 1, T + 1 + n, ACK, &forged);
        // By a second SYN that moves the place: the backend answers the first.
        let moved = S.wrapping_sub(n);
        let syn = talk.asks(moved, 0, SYN, b"");
        assert_eq!(syn.seq, moved.wrapping_sub(n));
        let answer = talk.answers(T + 1, moved + 1, ACK, b"");
        assert_eq!(answer.ack, moved.wrapping_add(1));
        talk.is_cut(moved.wrapping_add(1), T + 1, ACK, &forged);
        // In the midst of a connection that nobody knows.
        talk.programs.clear_flows();
        let packet = talk.asked(S + 1, T + 1, ACK, &forged);
        let mut counted = talk.dropped(&packet);
        counted.sort_unstable();
        // Nobody is told through options.
        let told: &[_] = if talk.loose { &["drop_expired"] } else { &["drop_expired", "refused"] };
        assert_eq!(counted, told);
        // In fragments, of which only the first would be changed.
        let packet = talk.asked(S, 0, SYN, &[0; 1400]);
        let first = fragment(&packet, 1280, 7).remove(0);
        assert!(talk.dropped(&first).contains(&"drop_fragment"));
        // Nor where the first has nothing to be cut off.
        talk.begin();
        let packet = talk.asked(S + 1, T + 1 + n, ACK, &[0; 1400]);
        let bare = packet.bytes().len() - 1400 + if talk.six { 8 } else { 0 };
        let first = fragment(&packet, bare, 8).remove(0);
        assert!(talk.dropped(&first).contains(&"drop_fragment"));
    });
}

#[test]
fn policies_are_asked_first() {
    everywhere(|mut talk| {
        if !talk.loose {
            return;
        }
        talk.programs.judge(POLICY, Outcome::Deny);
        let syn = talk.asked(S, 0, SYN, b"");
        assert_eq!(talk.dropped(&syn), ["drop_policy"]);
        talk.programs.judge(POLICY, Outcome::Allow);
        talk.begin();
        // Nobody is asked again.
        talk.programs.judge(POLICY, Outcome::Deny);
        talk.is_header(S + 1, ACK, b"");
        talk.programs.judge(POLICY, Outcome::Allow);
    });
}

#[test]
fn a_trace_changes_nothing() {
    everywhere(|mut talk| {
        talk.begin();
        for payload in [&b""[..], b"hello"] {
            let frame = Frame::new(talk.asked(S + 1, T + 1, ACK, payload)).bytes();
            let (record, _) = talk.programs.trace(talk.bed.from_container(1), &frame).unwrap();
            let verdict = if talk.far { "forwarded" } else { "delivered" };
            let found = causeway_schema::Verdict::from_number(record.verdict).unwrap();
            assert_eq!(found.name(), verdict);
        }
        talk.is_header(S + 1, ACK, b"and still it is due");
    });
}
