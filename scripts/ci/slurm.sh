#!/bin/bash
# slurm.sh start DIR | stop DIR: a private Slurm cluster of two nodes, for tests, as root.
#
# munged, slurmctld and two slurmd on this machine, on free ports of the loopback; nodes n1 and n2
# with two cores and a fake GPU each, partitions `batch` and `urgent`, which preempts `batch`.
# `start` prints the value for SLURM_CONF.
set -euo pipefail

action=$1 dir=$2

case $action in
start)
    host=$(hostname -s)
    mkdir -p "$dir"/{run,log,spool/n1,spool/n2,state,etc,munge/log,munge/run,munge/lib}
    chmod 755 "$dir"
    dd if=/dev/urandom of="$dir/munge/munge.key" bs=1024 count=1 status=none
    chown -R munge:munge "$dir/munge"
    chmod 755 "$dir/munge" "$dir/munge/run"
    chmod 700 "$dir/munge/log" "$dir/munge/lib"
    chmod 400 "$dir/munge/munge.key"
    setpriv --reuid=munge --regid=munge --clear-groups munged \
        --socket="$dir/munge/run/munge.socket" --key-file="$dir/munge/munge.key" \
        --log-file="$dir/munge/log/munged.log" --pid-file="$dir/munge/run/munged.pid" \
        --seed-file="$dir/munge/lib/munge.seed"
    read -r control first second < <(python3 -c '
import socket
ports = [socket.socket() for _ in range(3)]
for port in ports: port.bind(("127.0.0.1", 0))
print(*(port.getsockname()[1] for port in ports))')
    # a fake GPU is any character device whose name ends in its number
    for number in 0 1; do mknod "$dir/nvidia$number" c 1 3; done
    printf 'NodeName=n%d Name=gpu File=%s\n' 1 "$dir/nvidia0" 2 "$dir/nvidia1" > "$dir/etc/gres.conf"
    # cred_expire: a requeued job waits that long, by default two minutes
    cat > "$dir/etc/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$control
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/run/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
GresTypes=gpu
KillWait=20
SlurmdTimeout=10
MinJobAge=300
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$first CPUs=2 Gres=gpu:1 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$second CPUs=2 Gres=gpu:1 State=UNKNOWN
PartitionName=batch Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
CONF
    export SLURM_CONF=$dir/etc/slurm.conf
    slurmctld >"$dir/log/start" 2>&1
    for node in n1 n2; do slurmd -N $node >>"$dir/log/start" 2>&1; done
    for _ in $(seq 300); do
        if [ "$(sinfo -h -t idle -o %D -p batch 2>/dev/null)" = 2 ]; then
            echo "$SLURM_CONF"
            exit
        fi
        sleep 0.1
    done
    echo "Slurm does not start:" >&2
    tail -5 "$dir"/log/* >&2
    exit 1
    ;;
stop)
    for file in "$dir"/run/*.pid "$dir/munge/run/munged.pid"; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 200); do  # slurmctld writes its state last, and nobody may reap its zombie
            [[ $(ps -o stat= -p "$pid") =~ ^[^Z] ]] || break
            sleep 0.1
        done
    done
    ;;
*) echo "usage: slurm.sh start|stop DIR" >&2; exit 2 ;;
esac
