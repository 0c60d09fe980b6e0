#!/bin/bash
# What an operator does with the package, in order; each step says whether it
# did what it should.
exec > /mnt/log 2>&1
is() {
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: $2, not $3"; fi
}
# Until a command says so, ten seconds at most.
soon() {
    for _ in {1..100}; do
        [ "$("${@:2}" 2> /dev/null)" = "$1" ] && return
        sleep 0.1
    done
}
active() { systemctl is-active causeway; }
main_pid() { systemctl show -p MainPID --value causeway; }
replaced() { case $(main_pid) in 0 | "$before") ;; *) echo new ;; esac; }
moved() { [ "$(readlink "/proc/$server/ns/net")" = "$(readlink /proc/self/ns/net)" ] || echo moved; }
calls() { ip netns exec client timeout 2 bash -c 'exec 3<>/dev/tcp/10.244.0.6/8080' && echo answered; }
endpoints() { causeway endpoint list -o json | grep -c '"name"'; }
attach() { causeway endpoint attach "default/$1" --netns "$2" --address "$3" > /dev/null; }
attach_both() {
    attach client /run/netns/client 10.244.0.5 && attach server "/proc/$server/ns/net" 10.244.0.6
    causeway wait > /dev/null
    soon answered calls
}
settings() {
    printf 'node = "n1"\nmanifests = "/etc/causeway/manifests"\nuplink = "up0"\n' > /etc/causeway/causeway.toml
}
# What Docker's driver has from the agent.
drives() {
    python3 -c 'if True:
        import socket
        driver = socket.socket(socket.AF_UNIX)
        driver.connect("/run/docker/plugins/causeway.sock")
        driver.sendall(b"POST /IpamDriver.RequestPool HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
        print("asks" if b"the agent has none" in driver.makefile("rb").read() else "")'
}
denials() { causeway status | grep -c 'other.yaml.*Permission denied'; }
pins() { ls -d /sys/fs/bpf/causeway 2> /dev/null; }
interfaces() { ip -br link | grep -c '^cw'; }
left() { find /etc/causeway /var/lib/causeway 2> /dev/null | sort | xargs; }
# Whether more answers come on the one connection.
held() {
    local then now
    then=$(< /tmp/held)
    for _ in {1..60}; do
        now=$(< /tmp/held)
        case $now in
            "$then") sleep 0.1 ;;
            *[!0-9]*) break ;;
            *) echo "goes on"; return ;;
        esac
    done
    echo "$now, no more"
}

# Not every kernel has all of these.
switches="/proc/sysrq-trigger /proc/bus /proc/fs /proc/irq /proc/sys/kernel/panic /sys/kernel"
is "the host's switches cannot be thrown" "$(find $switches -maxdepth 0 -writable 2> /dev/null)" ""

dpkg -i /mnt/causeway.deb
is "the first installation starts nothing" "$(active)" inactive
settings
systemctl enable --now causeway
is "the unit starts" "$(active)" active

systemctl enable --now causeway-docker
is "Docker's driver starts" "$(systemctl is-active causeway-docker)" active
is "it asks the agent" "$(drives)" asks
systemctl kill --signal KILL causeway-docker
soon asks drives
is "it is started again when it dies" "$(drives)" asks

ip netns add client
attach client /run/netns/client 10.244.0.5
is "a namespace named by a path" $? 0
unshare --net sleep infinity &
server=$!
soon moved moved
attach server /proc/$server/ns/net 10.244.0.6
is "a namespace named by a process" $? 0
nsenter --net=/proc/$server/ns/net python3 /mnt/hold.py serve 8080 &
causeway wait > /dev/null
soon answered calls
is "containers talk" "$(calls)" answered
is "sockets are served" "$(causeway status | grep -c 'programs at .*+sockets')" 1
is "nothing alarms" "$(causeway status | grep -c ALARMS)" 0
# Root without CAP_DAC_OVERRIDE is a user like others.
echo '# nobody'"'"'s' > /etc/causeway/manifests/other.yaml
chown nobody /etc/causeway/manifests/other.yaml
soon 0 denials
is "a file that anybody may read is read, whosever it is" "$(denials)" 0
chmod 600 /etc/causeway/manifests/other.yaml
soon 1 denials
is "one that its owner alone may read is not" "$(denials)" 1
rm /etc/causeway/manifests/other.yaml
echo 0 > /tmp/held
ip netns exec client python3 /mnt/hold.py hold 10.244.0.6 8080 /tmp/held &
holder=$!
is "a connection is held from here on" "$(held)" "goes on"

before=$(main_pid)
systemctl kill -s KILL causeway
is "the dataplane outlives a kill" "$(calls)" answered
is "and the connection" "$(held)" "goes on"
soon new replaced
soon active active
is "the agent is started again" "$(replaced) $(active)" "new active"
causeway wait > /dev/null
is "with its endpoints" "$(endpoints)" 2
is "and the connection goes on under it" "$(held)" "goes on"

before=$(main_pid)
dpkg --force-confold -i /mnt/causeway.deb
is "an upgrade starts the new agent" "$(active)" active
is "in the old one's place" "$(replaced)" new
is "and leaves the dataplane" "$(calls)" answered
is "with the connection" "$(held)" "goes on"
is "and the settings" "$(grep -c up0 /etc/causeway/causeway.toml)" 1

echo 'uplnk = "up0"' >> /etc/causeway/causeway.toml
said=$(dpkg --force-confold -i /mnt/causeway.deb 2>&1)
is "an upgrade whose agent does not start is done all the same" $? 0
is "and says so" "$(grep -c 'the new agent has not started' <<< "$said")" 1
is "the package is whole" "$(dpkg-query -W -f '${db:Status-Status}' causeway)" installed
is "the connection knows nothing of it" "$(held)" "goes on"
settings
systemctl restart causeway
is "with settings that can be it starts" "$(active)" active

systemctl stop causeway
is "a stop is one" "$(active)" inactive
is "the dataplane outlives it" "$(calls)" answered
is "and the connection, to the end" "$(held)" "goes on"
kill $holder

said=$(dpkg -r causeway 2>&1)
is "removal of a stopped agent" $? 0
is "has nothing to complain of" "$(grep '^causeway:' <<< "$said")" ""
is "it takes the pins" "$(pins)" ""
is "and the interfaces" "$(interfaces)" 0
is "but not the settings" "$(grep -c up0 /etc/causeway/causeway.toml)" 1
dpkg -P causeway
is "a purge takes the rest" "$(left)" ""

dpkg -i /mnt/causeway.deb
settings
echo '# the operator'"'"'s' > /etc/causeway/manifests/own.yaml
systemctl enable --now causeway
attach_both
is "installed again, containers talk" "$(calls)" answered
said=$(dpkg -r causeway 2>&1)
is "removal of an agent that runs" $? 0
is "has no more to complain of" "$(grep '^causeway:' <<< "$said")" ""
is "it ends the agent" "$(active)" inactive
is "for the next boot, too" "$(find /etc/systemd -name 'causeway*.service')" ""
is "and the dataplane" "$(pins) $(interfaces)" " 0"
dpkg -P causeway
is "a purge leaves what is the operator's" "$(left)" "/etc/causeway /etc/causeway/manifests /etc/causeway/manifests/own.yaml"
rm -r /etc/causeway

dpkg -i /mnt/causeway.deb
settings
systemctl enable --now causeway
attach_both
systemctl stop causeway
echo 'uplnk = "up0"' >> /etc/causeway/causeway.toml
said=$(dpkg -r causeway 2>&1)
is "removal where no agent can be started" $? 0
is "says what is left" "$(grep -c 'the dataplane is still on this node' <<< "$said")" 1
is "leaves no unit that tries" "$(active)$(find /etc/systemd -name causeway.service)" inactive
is "nor the program" "$(ls /usr/bin/causeway 2> /dev/null)" ""
is "the dataplane goes on" "$(calls)" answered
dpkg --force-confold -i /mnt/causeway.deb
settings
systemctl start causeway
is "what it advises can be done" "$(causeway uninstall)" uninstalled
is "and takes all that was left" "$(pins) $(interfaces)" " 0"
dpkg -P causeway
is "a purge is a removal, too" "$(ls /usr/bin/causeway 2> /dev/null)$(left)" ""
echo done
