#!/usr/bin/env bash
# GUARD, four stages: a teacher is trained, images are recovered from it and relabelled, and a student is
# trained on them and attacked.
set -euo pipefail
unset CDPATH # with it cd may go elsewhere, and prints where it went
caller=$PWD
here=$(readlink -f "${BASH_SOURCE[0]}" 2>/dev/null) || here=${BASH_SOURCE[0]} # it may be called by a link
cd "$(dirname "$here")"
source guard/environment.sh

usage() {
    cat <<'USAGE'
usage: bash run.sh [flags] [-- STAGE FLAGS... [STAGE FLAGS...]]

  -d NAME   data set: digits (embedded), cifar10, cifar100, tiny-imagenet, imagenette, imagenet,
            or any DATA_ROOT/NAME/{train,val}/CLASS/*.jpg                   [digits]
  -r DIR    data root, the folder that holds the data sets                  [data/raw]
  -x ID     experiment id                                                   [24]
  -y ID     teacher id                                                      [1]
  -Y ID     id of the teacher that makes the soft labels, if another        [-y]
  -p        train a new teacher (without it, teacher ID has to be there)
  -m NAME   teacher model                                                   [the recipe's, resnet18]
  -e NAME   student model                                                   [the recipe's, resnet18]
  -c N      images per class                                                [10]
  -C        GUARD: curvature regularizer in the teacher's training
  -l X      lambda, its coefficient                                         [the recipe's, 100]
  -h X      h, the length of its step; with -v f the attack's epsilon       [the recipe's, 3]
  -G        gradient regularization in the teacher's training
  -B X      beta, the coefficient of it, of the regularizer loss, of TRADES [1e-4]
  -v t|f|n  adversarially trained teacher: t TRADES style, f ten sign steps, n one step (N-FGSM)
  -b X      r_bn, weight of the batch-norm loss in recovery                 [the recipe's]
  -a X      step size of the recovery                                       [the recipe's]
  -i N      iterations of the recovery, networks of dc                      [the recipe's]
  -A        CDA: curriculum of crops in the recovery
  -I NAME   where the images come from: sre2l (recovered), rded (crops of training images),
            random (training images), dc (matched gradients)                [sre2l]
  -R NAME   recipe of labels and student: paper, modern, dc, mtt            [paper]
  -z N      epochs of relabelling and of the student                        [the recipe's]
  -u IDS    cpu, a GPU id, or several (0,1: one process each)               [0, or the CPU without a GPU]
  -s N      seed                                                            [0]
  -o DIR    output root                                                     [runs]
  -g        debug: 2 iterations, 2 epochs, 2 images per class unless they are given, protocol quick, in
            OUTPUT/debug
  -n        print the four stage commands and stop
  -f        do finished stages again
  --help    this text

The recipes' defaults: python3 -m guard.recipes NAME. What follows -- goes to the stages as it is, for example
  bash run.sh -d cifar10 -p -C -m convnet -e convnet -- pretrain --epochs 10 --images 300 train --images 50
USAGE
}

fail() {
    echo "error: $1; see bash run.sh --help" >&2
    exit 2
}

# A folder that was named where run.sh was called.
from_caller() {
    if [[ $1 == /* ]]; then
        printf '%s\n' "$1"
    elif [ "$PWD" != "$caller" ]; then
        printf '%s\n' "$caller/$1"
    elif [[ $1 == -* ]]; then
        printf '%s\n' "./$1" # else a stage would take it for a flag
    else
        printf '%s\n' "$1"
    fi
}

# The same for what may also be no path.
if_there() {
    if [[ $1 && -e $caller/$1 ]]; then from_caller "$1"; else printf '%s\n' "$1"; fi
}

# Checks flags, in a moment. Ctrl-C is run.sh's alone, or the check would print where it was.
check() {
    "$light" -m "$@" &
    wait $!
}

# A stage's command as one line.
line_of() {
    local -n its_command=$1
    quoted "${its_command[@]}"
}

# Whether -f has yet to do a stage again: its command is in the list, and nothing of it is newer than that.
to_be_forced() {
    grep -qsxF -- "$(line_of "$1")" "$again" || return 1
    case $1 in
        pretrain) set -- "$teachers"/{resume,checkpoint}.pt ;;
        recover) set -- "$images/manifest.json" ;;
        relabel) set -- "$labels/manifest.json" ;;
        train) set -- "$folder/student"/{resume,checkpoint}.pt ;;
    esac
    local made
    for made in "$@"; do [ ! "$made" -nt "$again" ] || return 1; done
}

# list_again LINE...: what -f has yet to do again.
list_again() {
    if ! { printf '%s\n' "$@" >"$again.part" && mv -f "$again.part" "$again"; } 2>/dev/null; then
        rm -f "$again.part"
        fail "cannot write $again; make room, or choose another -o"
    fi
}

# Ctrl-C, once what runs has ended. A stage said so itself, unless it had just finished.
interrupted() {
    local without=''
    [ ! -e "$again" ] || without=', without -f,'
    [ "$1" = "$by_stage" ] || echo "interrupted; give the same command again$without to go on" >&2
    exit 130
}
by_stage=none again=''
trap 'interrupted $?' INT

# The words as one would type them: quoted where the shell would read them otherwise.
quoted() {
    local word line=''
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=,+-]+$ ]] || printf -v word '%q' "$word"
        line+="$word "
    done
    echo "${line% }"
}

[ -z "${GUARD_CACHE-}" ] || export GUARD_CACHE=$(from_caller "$GUARD_CACHE")

# ---- flags ---------------------------------------------------------------------------------------

for word in "$@"; do
    [ "$word" != -- ] || break
    [ "$word" != --help ] || { usage; exit 0; }
done

dataset=digits root=data/raw experiment=24 teacher=1 labeller='' output=runs device='' model='' method=sre2l
adversarial='' step_length=''
teacher_flags='' relabel_flags='' train_teacher=no only_print=no debug=no force=no
common=() models=() pretrain=() recover=() relabel=() train=()
while getopts ':d:r:x:y:Y:pm:e:c:Cl:h:GB:v:b:a:i:AI:R:z:u:s:o:gnf' flag; do
    [ -n "${OPTARG-none}" ] || fail "-$flag needs a value"
    case $flag in
        d) dataset=$OPTARG ;;
        r) root=$(from_caller "$OPTARG") ;;
        x) experiment=$OPTARG ;;
        y) teacher=$OPTARG ;;
        Y) labeller=$OPTARG ;;
        p) train_teacher=yes ;;
        m) model=$OPTARG models+=(--teacher "$OPTARG") pretrain+=(--model "$OPTARG") ;;
        e) models+=(--student "$OPTARG") train+=(--model "$OPTARG") ;;
        c) recover+=(--images-per-class "$OPTARG") ;;
        C) pretrain+=(--curvature) ;;
        l) pretrain+=(--lambda "$OPTARG") ;;
        h) step_length=$OPTARG ;;
        G) pretrain+=(--gradient-regularization) ;;
        B) pretrain+=(--loss-beta "$OPTARG" --gradient-beta "$OPTARG" --trades-beta "$OPTARG") ;;
        v) adversarial=$OPTARG pretrain+=(--adversarial "$OPTARG") ;;
        b) recover+=(--r-bn "$OPTARG") ;;
        a) recover+=(--step-size "$OPTARG") ;;
        i) recover+=(--iterations "$OPTARG") ;;
        A) recover+=(--cda) ;;
        I) method=$OPTARG recover+=(--method "$OPTARG") ;;
        R) relabel+=(--recipe "$OPTARG") train+=(--recipe "$OPTARG") ;;
        z) relabel+=(--epochs "$OPTARG") train+=(--epochs "$OPTARG") ;;
        u) device=$OPTARG common+=(--device "$OPTARG") ;;
        s) common+=(--seed "$OPTARG") ;;
        o) output=$(from_caller "$OPTARG") ;;
        g) debug=yes ;;
        n) only_print=yes ;;
        f) force=yes ;;
        :) fail "-$OPTARG needs a value" ;;
        *)
            if [[ $OPTARG == - && ${!OPTIND-} == --* ]]; then
                fail "'${!OPTIND}' is no flag of run.sh; a stage's go after -- STAGE"
            fi
            fail "there is no flag -$OPTARG"
            ;;
    esac
    [[ $flag != [ClhGBv] ]] || teacher_flags+=" -$flag"
done
shift $((OPTIND - 1))
light=$(light_python)
if [ "$adversarial" = f ]; then # whose epsilon is -h
    pretrain+=(--epsilon "${step_length:-$(check guard.recipes "$dataset" pretrain h)}")
fi
if [ -n "$step_length" ] && [[ $adversarial != f || $teacher_flags == *C* ]]; then
    pretrain+=(--h "$step_length")
fi
if [ $debug = yes ]; then
    output=$output/debug # whose teachers and experiments are not for real use
    # before the flags that were given, which count
    pretrain=(--epochs 2 --images 2 --val-images 2 --curvature-images 8 "${pretrain[@]}")
    recover=(--images-per-class 2 "${recover[@]}")
    [[ $method =~ ^(random|rded)$ ]] || recover=(--iterations 2 "${recover[@]}")
    relabel=(--epochs 2 "${relabel[@]}")
    train=(--epochs 2 --images 2 --val-images 2 --protocol quick "${train[@]}")
fi
stage='' previous='' hard="labels of the classes alone come by -R dc or -R mtt; or call train by itself"
for word in "$@"; do
    # The word train may be the value of --teacher-mode, too.
    if [[ $word =~ ^(pretrain|recover|relabel|train)$ && $previous != --teacher-mode ]]; then
        stage=$word
    else
        if [ -z "$stage" ]; then
            fail "'$word' stands alone; what follows the flags begins with -- and the name of a stage"
        fi
        if [[ $word =~ ^(-[dr]|--(dataset|root|output|record|teacher|distilled)(=|$)) ]]; then
            [[ $word == --* ]] || word=${word:0:2}
            fail "run.sh gives $stage its ${word%%=*}; choose by -d, -r, -o, -x, -y, -Y"
        fi
        case "$stage $word" in # what run.sh has to know: where teachers lie, what to check before the work
            'pretrain --model'*) fail "name the teacher's model by -m, not by pretrain --model" ;;
            'train --model'*) fail "name the student's model by -e, not by train --model" ;;
            'recover --method'*) fail "name the image method by -I, not by recover --method" ;;
            'train --labels=hard') fail "$hard" ;;
            'pretrain --image-size='* | 'pretrain --stem='*) models+=("$word") ;;
            'pretrain --weights='* | 'train --labels='*) word=${word%%=*}=$(if_there "${word#*=}") ;;
            *' --help' | *' -h')
                declare -n extra=$stage
                "$light" -m "$stage" --dataset "$dataset" "${extra[@]}" --help
                exit 0
                ;;
            *' --check') fail "run.sh checks all flags itself, with -n as well" ;;
        esac
        case "$stage $previous" in
            'train --labels') [ "$word" != hard ] || fail "$hard"; word=$(if_there "$word") ;;
            'pretrain --image-size' | 'pretrain --stem') models+=("$previous" "$word") ;;
            'pretrain --weights') word=$(if_there "$word") ;;
        esac
        declare -n extra=$stage
        extra+=("$word")
        [[ $stage != pretrain || $word != --* ]] || teacher_flags+=" $word"
        [[ $stage != relabel || $word != --* ]] || relabel_flags+=" $word"
    fi
    previous=$word
done
labeller=${labeller:-$teacher}
for id in "$dataset" "$experiment" "$teacher" "$labeller"; do
    if [[ ! $id =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]]; then
        fail "'$id' is no name for a folder; use letters and digits, and after the first . _ -"
    fi
done

if [[ ${train[*]} == *--epochs* && ${relabel[*]} != *--epochs* &&
    ! ${train[*]} =~ --(labels|reuse-labels) ]]; then
    fail "labels and student have the same epochs; give -z, or relabel --epochs as well"
fi

if [[ ${train[*]} == *--labels* && -n $relabel_flags ]]; then
    online="with --labels online give it to train"
    fail "with train --labels there is no stage relabel to take$relabel_flags; $online"
fi

stages=()
[ $train_teacher = no ] || stages+=(pretrain)
stages+=(recover)
[[ ${train[*]} =~ --labels ]] || stages+=(relabel) # else the student has other labels, or makes its own
stages+=(train)

# ---- the four commands ---------------------------------------------------------------------------

[ -n "$model" ] || model=$(check guard.recipes "$dataset" pretrain model)
folder=$output/$experiment
teachers=$output/teachers/$dataset/$model/$teacher labellers=$output/teachers/$dataset/$model/$labeller
images=$folder/images labels=$folder/labels log=$folder/log.json
# A run of -f that is stopped and goes on without -f does again what this lists, by the very same commands.
again=$folder/.again
data=(--dataset "$dataset" --root "$root")

# What a stage reads and writes, then the flags that were given for all, then those for it, which count.
pretrain=(pretrain "${data[@]}" --output "$teachers" "${common[@]}" "${pretrain[@]}")
recover=(
    recover "${data[@]}" --teacher "$teachers/checkpoint.pt"
    --output "$images" --record "$log" "${common[@]}" "${recover[@]}"
)
relabel=(
    relabel --dataset "$dataset" --teacher "$labellers/checkpoint.pt" --distilled "$images"
    --output "$labels" --record "$log" "${common[@]}" "${relabel[@]}"
)
train=(
    train "${data[@]}" --teacher "$labellers/checkpoint.pt" --distilled "$images" --labels "$labels"
    --output "$folder/student" --record "$log" "${common[@]}" "${train[@]}"
)

commands=()
for stage in pretrain recover relabel train; do
    declare -n command=$stage
    commands+=(${#command[@]} "${command[@]}")
done
check guard.chain "${commands[@]}"

launch=(-m)
if [[ $device == *,* ]]; then
    processes=${device//[^,]/}
    launch=(-m guard.launch $((${#processes} + 1)))
fi
if [ $train_teacher = no ] && [ -n "$teacher_flags" ]; then
    echo "note: without -p teacher $teacher is used as it is, without regard to$teacher_flags" >&2
fi
if [ $only_print = yes ]; then
    [ "$PWD" = "$caller" ] || echo "# in $PWD"
    [ $train_teacher = yes ] || echo "# teacher: $teachers/checkpoint.pt"
    for stage in "${stages[@]}"; do
        declare -n command=$stage
        if [ $force = yes ] || to_be_forced $stage; then command+=(--force); fi
        echo "python ${launch[*]} $(quoted "${command[@]}")"
    done
    exit 0
fi

# ---- the run -------------------------------------------------------------------------------------

needed=()
[ $train_teacher = yes ] || needed+=("$teachers")
[ "$labellers" = "$teachers" ] || needed+=("$labellers")
for each in ${needed[@]+"${needed[@]}"}; do
    if [ ! -f "$each/checkpoint.pt" ]; then
        remedy='train it with -p, or choose another with -y and -m'
        [ "$each" = "$teachers" ] || remedy="train it by -p -y $labeller, or choose another with -Y"
        echo "error: there is no teacher $each/checkpoint.pt; $remedy" >&2
        exit 2
    fi
done
check guard.data.find "$dataset" --root "$root" --quiet
set_up requirements.txt
light=$PYTHON
[ ${#models[@]} = 0 ] || check guard.networks.models "$dataset" "${models[@]}" --method "$method"
elsewhere='choose another folder with -o'
mkdir -p "$folder" 2>/dev/null || fail "cannot write $folder; $elsewhere"
{ exec {lock}>>"$folder/.lock"; } 2>/dev/null || fail "cannot write $folder/.lock; $elsewhere"
"$light" -m guard.run.lock "$folder" $lock $$
export GUARD_LOCKED=$(cd "$folder" && pwd -P) GUARD_RUN=$$ # stages end with it
if [ $force = yes ]; then
    listed=()
    for stage in "${stages[@]}"; do listed+=("$(line_of $stage)"); done
    list_again "${listed[@]}"
fi
for stage in "${stages[@]}"; do
    declare -n command=$stage
    forced=()
    if to_be_forced $stage; then forced=(--force); fi
    echo "== $stage"
    by_stage=130
    "$PYTHON" "${launch[@]}" "${command[@]}" "${forced[@]}"
    if grep -qsxF -- "$(line_of $stage)" "$again"; then
        left=$(grep -vxF -- "$(line_of $stage)" "$again") || true
        list_again "$left"
    fi
done
rm -f "$again" "$folder/.lock" # only here: after a kill a stage may live on, and with it the lock
