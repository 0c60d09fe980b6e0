#!/bin/bash
# What an operator does with the package, in order; each step says whether it
# did what it should.
exec > /mnt/log 2>&1
is() {
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: $2, not $3"; fi
}
active() { systemctl is-active causeway; }
calls() { ip netns exec client timeout 2 bash -c 'exec 3<>/dev/tcp/10.244.0.6/8080' && echo answered; }
endpoints() { causeway endpoint list -o json | grep -c '"name"'; }

dpkg -i /mnt/causeway.deb
is "the first installation starts nothing" "$(active)" inactive
printf 'node = "n1"\nmanifests = "/etc/causeway/manifests"\nuplink = "up0"\n' > /etc/causeway/causeway.toml
systemctl enable --now causeway
is "the unit starts" "$(active)" active

ip netns add client
causeway endpoint attach default/client --netns /run/netns/client --address 10.244.0.5 > /dev/null
is "a namespace named by a path" $? 0
unshare --net sleep 60 &
sleep 0.3
causeway endpoint attach default/server --netns /proc/$!/ns/net --address 10.244.0.6 > /dev/null
is "a namespace named by a process" $? 0
nsenter --net=/proc/$!/ns/net /usr/bin/python3 -m http.server 8080 > /dev/null 2>&1 &
causeway wait > /dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do [ "$(calls 2> /dev/null)" = answered ] && break; sleep 0.3; done
is "containers talk" "$(calls)" answered
is "sockets are served" "$(causeway status | grep -c 'programs at .*+sockets')" 1
is "nothing alarms" "$(causeway status | grep -c ALARMS)" 0

systemctl kill -s KILL causeway
is "the dataplane outlives a kill" "$(calls)" answered
sleep 2.5
is "the agent is started again" "$(active)" active
causeway wait > /dev/null
is "with its endpoints" "$(endpoints)" 2

before=$(systemctl show -p MainPID --value causeway)
dpkg --force-confold -i /mnt/causeway.deb
is "an upgrade starts the new agent" "$(active)" active
is "in the old one's place" "$([ "$before" = "$(systemctl show -p MainPID --value causeway)" ] || echo new)" new
is "and leaves the dataplane" "$(calls)" answered
is "and the settings" "$(grep -c up0 /etc/causeway/causeway.toml)" 1

systemctl stop causeway
is "a stop is one" "$(active)" inactive
is "the dataplane outlives it" "$(calls)" answered

dpkg -r causeway
is "removal takes the pins" "$(ls -d /sys/fs/bpf/causeway 2> /dev/null)" ""
is "and the interfaces" "$(ip -br link | grep -c '^cw')" 0
is "but not the settings" "$(grep -c up0 /etc/causeway/causeway.toml)" 1
dpkg -P causeway
is "a purge takes the rest" "$(ls -d /etc/causeway /var/lib/causeway 2> /dev/null)" ""
echo done
