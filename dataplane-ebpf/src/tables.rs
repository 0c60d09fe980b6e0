//! How does a family get at its maps? Alike in both, but for their names.

/// The part of `impl Family` that is alike.
macro_rules! tables {
    ($frontends:ident, $services:ident, $backends:ident, $arena:ident, $affinity:ident, $members:ident,
     $source_ranges:ident, $port_ranges:ident, $endpoint_keys:ident, $endpoints:ident, $classes:ident, $flows:ident, $embryonic:ident, $cache:ident, $pair:ident, $loose:ident, $fragments:ident, $queues:ident, $egress:ident) => {
        #[inline(always)]
        fn frontend(key: &FrontendKey<Self>) -> Option<Frontend> {
            // SAFETY: rows are replaced whole by userspace; a copy is taken at once.
            unsafe { maps::$frontends.get(key).copied() }
        }

        #[inline(always)]
        fn service(id: u32) -> Option<*const Service> {
            maps::$services.get_ptr(id)
        }

        #[inline(always)]
        fn arena() -> impl Arena {
            /// The table arena as BPF sees it: an inlined array lookup.
            struct MapArena;
            impl Arena for MapArena {
                #[inline(always)]
                fn cell(&self, index: u32) -> Option<&Cell> {
                    maps::$arena.get(index)
                }
            }
            MapArena
        }

        #[inline(always)]
        fn backend(id: u32) -> Option<Backend<Self>> {
            maps::$backends.get(id).copied()
        }

        #[inline(always)]
        fn member(key: &MemberKey<Self>) -> Option<Member> {
            // SAFETY: as for `frontend`.
            unsafe { maps::$members.get(key).copied() }
        }

        #[inline(always)]
        fn client(key: &ClientKey<Self>) -> Option<*mut Client<Self>> {
            maps::$affinity.get_ptr_mut(key)
        }

        #[inline(always)]
        fn remember(key: &ClientKey<Self>, client: &Client<Self>) -> bool {
            maps::$affinity.insert(key, client, u64::from(BPF_NOEXIST)).is_ok()
        }

        #[inline(always)]
        fn forget(key: &ClientKey<Self>) {
            let _ = maps::$affinity.remove(key);
        }

        #[inline(always)]
        fn has_source_range(client: &SourceRangeKey<Self>) -> bool {
            let data = Sourced { service: client.service, addr: client.addr };
            maps::$source_ranges.get(lpm_trie::Key::new(client.prefix, data)).is_some()
        }

        #[inline(always)]
        fn port_ranges(address: Self) -> Option<&'static PortRanges> {
            // SAFETY: the row stays readable until the program ends (RCU); a
            // range is copied at once.
            unsafe { maps::$port_ranges.get(address) }
        }

        #[inline(always)]
        fn egress(address: Self) -> Option<Egress<Self>> {
            // SAFETY: as for `frontend`.
            unsafe { maps::$egress.get(address).copied() }
        }

        #[inline(always)]
        fn endpoint(slot: u32) -> Option<&'static Endpoint> {
            maps::$endpoints.get(slot)
        }

        #[inline(always)]
        fn class(generation: u32, peer: Self) -> Option<u32> {
            let PeerKey { prefix, generation, addr } = PeerKey::exactly(generation, peer);
            maps::$classes.get(lpm_trie::Key::new(prefix, (generation, addr))).copied()
        }

        #[inline(always)]
        fn endpoint_hop(address: Self) -> Option<Hop> {
            // SAFETY: as for `frontend`.
            unsafe { maps::$endpoint_keys.get(EndpointKey(address)).copied() }
        }

        #[inline(always)]
        fn established(key: &FlowKey<Self>) -> Option<*mut Flow<Self>> {
            maps::$flows.get_ptr_mut(key)
        }

        #[inline(always)]
        fn embryonic(key: &FlowKey<Self>) -> Option<*mut Flow<Self>> {
            maps::$embryonic.get_ptr_mut(key)
        }

        #[inline(always)]
        fn put_established(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool {
            maps::$flows.insert(key, flow, 0).is_ok()
        }

        #[inline(always)]
        fn put_embryonic(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool {
            maps::$embryonic.insert(key, flow, 0).is_ok()
        }

        #[inline(always)]
        fn reserve_embryonic(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool {
            maps::$embryonic.insert(key, flow, u64::from(BPF_NOEXIST)).is_ok()
        }

        #[inline(always)]
        fn drop_established(key: &FlowKey<Self>) {
            // Absent is fine: somebody else was quicker.
            let _ = maps::$flows.remove(key);
        }

        #[inline(always)]
        fn drop_embryonic(key: &FlowKey<Self>) {
            let _ = maps::$embryonic.remove(key);
        }

        #[inline(always)]
        fn routed(index: u32) -> Option<*mut Routed<Self>> {
            maps::$fragments.get_ptr_mut(index)
        }

        #[inline(always)]
        fn queue(datagram: &Datagram<Self>) -> Option<*mut Queue> {
            maps::$queues.get_ptr_mut(datagram)
        }

        #[inline(always)]
        fn open_queue(datagram: &Datagram<Self>) {
            let _ = maps::$queues.insert(datagram, &Queue::EMPTY, u64::from(BPF_NOEXIST));
        }

        #[inline(always)]
        fn close_queue(datagram: &Datagram<Self>) {
            let _ = maps::$queues.remove(datagram);
        }

        #[inline(always)]
        fn pair() -> Option<*mut Pair<Self>> {
            maps::$pair.get_ptr_mut(0)
        }

        #[inline(always)]
        fn loose(row: u32) -> Option<*mut Loose<Self>> {
            maps::$loose.get_ptr_mut(row)
        }

        #[inline(always)]
        fn cache_line(index: u32) -> Option<*mut Line<Self>> {
            maps::$cache.get_ptr_mut(index)
        }
    };
}

pub(crate) use tables;
