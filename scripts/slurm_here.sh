#!/bin/sh
# Start a Slurm cluster of one machine, on loopback, for tests/executors/test_slurm.py. Debian or Ubuntu,
# as root. It installs slurm-wlm and munge where they are missing, keeps everything else in one
# folder, and touches neither /etc/slurm nor a cluster that runs here already.
#
#     eval "$(sudo scripts/slurm_here.sh start /tmp/slurm)"   # sets SLURM_CONF
#     pytest -m slurm
#     sudo scripts/slurm_here.sh stop /tmp/slurm
set -eu

what=${1:-start}
folder=${2:-/tmp/slurm}
port=${SLURM_PORT:-16817}

stop() {
    for daemon in slurmd slurmctld munged; do
        if [ -f "$folder/$daemon.pid" ]; then
            pid=$(cat "$folder/$daemon.pid")
            kill "$pid" 2>/dev/null || true
            for _ in $(seq 50); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.1
            done
        fi
    done
}

if [ "$what" = stop ]; then
    stop
    exit 0
fi

if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    {
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge
    } >&2
fi

stop
rm -rf "$folder"
mkdir -p "$folder/state" "$folder/spool" "$folder/munge"
chmod 755 "$folder"
head -c 1024 /dev/urandom >"$folder/munge/key"
chown -R munge "$folder/munge"
chmod 700 "$folder/munge"
chmod 400 "$folder/munge/key"
# The socket lies where other users reach it.
mkdir -p "$folder/socket"
chown munge "$folder/socket"
chmod 755 "$folder/socket"
runuser -u munge -- munged --key-file="$folder/munge/key" --socket="$folder/socket/munge" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" \
    --seed-file="$folder/munge/seed" >&2
cp "$folder/munge/pid" "$folder/munged.pid"

host=$(hostname -s)
cpus=$(nproc)
cat >"$folder/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
AuthType=auth/munge
AuthInfo=socket=$folder/socket/munge,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=here Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
CONF
export SLURM_CONF="$folder/slurm.conf"
slurmctld >&2
slurmd -N "$host" >&2

for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.5
done
sinfo >&2 || true
tail -n 20 "$folder"/slurm*.log >&2
echo "the cluster did not come up; see the logs in $folder" >&2
exit 1
