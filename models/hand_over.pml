/* A slab changes hands while others free its blocks: thread ends, orphans, adoption, a heap used by the next thread.
 *
 * Code: AllocatorCore::retire_heap_slow, take_heap_slow (src/heap/core.cpp); adopt_orphan (src/heap/core_blocks.cpp); free_block,
 * free_orphan, free_remote, send, settle_abandoned (src/heap/core_frees.cpp); take_slot (src/heap/free_steps.cpp); Heap::hand_over_slow,
 * adopt_slow, flush_slow, fold_slow, take_back, sweep, sweep_slab, defer (src/heap/heap.cpp); post, take_inbox, give_back
 * (src/heap/heap.hpp).
 *
 * One slab with two blocks that callers hold and one that is always free, so the slab can be adopted at any time. Thread A
 * owns it, ends, and its heap goes to a next thread that adopts; thread B adopts and ends. Two strangers free: the first
 * one block 0, by batch, the second one either, by batch or by deferral.
 *
 * Claims: a block is put into its slab once, after a free; when all is quiet and every heap in use has folded, no freed
 * block is left on the way; the inbox of a heap without a thread is empty.
 *
 * Folded: a batch is posted in one step and taken in one (remote_free has the chain). Left out: has_orphans_, which only spares
 * the lock; the outboxes of the thread that ends, which are posted first of all, as a stranger's are; the stacks, for the blocks that they hold are in
 * nobody's way here; slabs that are given back (stale_free).
 *
 * Taken for granted: Slab::owner by adoption, Heap::sweep_, active_ and inbox_ are one order for all (seq_cst): each of
 * three pairs is "I store mine, then look at yours": post and active_; deferral and owner; adoption and state.
 */
#define HA 0
#define HB 1
#define ORPHANS 2
#define BLOCKS 2

mtype = { FREE, LIVE, REMOTE, DEFERRED };

mtype state[BLOCKS] = LIVE;
byte owner = HA;
bool attended[3]; /* Heap::active_ */
bool sweep_wanted[3];
byte inbox[6]; /* how often each block lies in each heap's inbox */
bool locked;   /* the orphans' */
byte done;

bool placed[BLOCKS];
byte effective[BLOCKS];

#define lock() atomic { !locked -> locked = true }
#define unlock() locked = false

inline place(b) {
  assert(!placed[b]);
  assert(effective[b] > 0);
  placed[b] = true
}

/* Heap::defer. o, now, asked: the caller's. */
inline defer(b) {
  atomic {
    if
    :: state[b] == REMOTE -> state[b] = DEFERRED; asked = true
    :: else
    fi
  }
  if
  :: asked ->
    asked = false;
    o = owner;
    do
    :: sweep_wanted[o] = true;
#ifdef PLANT_owner_asked_once
      break
#else
      now = owner;
      if
      :: now == o -> break
      :: else -> o = now
      fi
#endif
    od;
    o = 0;
    now = 0
  :: else
  fi
}

/* One exchange. */
inline take_inbox(h) {
  d_step {
    mine0 = inbox[h * 2];
    mine1 = inbox[h * 2 + 1];
    inbox[h * 2] = 0;
    inbox[h * 2 + 1] = 0
  }
}

/* The next block of what was taken. */
#define more (mine0 + mine1 > 0)
inline next_block() {
  atomic {
    if
    :: mine0 > 0 -> mine0--; b = 0
    :: else -> mine1--; b = 1
    fi
  }
}

/* settle_abandoned */
inline settle(h) {
  take_inbox(h);
  do
  :: more -> next_block(); defer(b)
  :: else -> break
  od
}

inline sweep_slab() {
  b = 0;
  do
  :: b < BLOCKS ->
    if
    :: state[b] == DEFERRED -> atomic { state[b] = FREE; place(b) } /* give_back */
    :: else
    fi;
    b++
  :: else -> break
  od;
  b = 0
}

/* fold_slow */
inline fold(h) {
  take_inbox(h);
  do
  :: more ->
    next_block();
    if /* take_back */
    :: state[b] == REMOTE ->
      if
      :: owner == h -> atomic { state[b] = FREE; place(b) }
      :: owner != h -> defer(b)
      fi
    :: state[b] != REMOTE
    fi
  :: else -> break
  od;
  if /* sweep, through the slabs of its list */
  :: sweep_wanted[h] ->
    sweep_wanted[h] = false;
    if
    :: owner == h -> sweep_slab()
    :: else
    fi
  :: else
  fi;
  b = 0
}

/* retire_heap_slow */
inline retire(h) {
  fold(h); /* flush_slow */
  lock();
  if /* hand_over_slow */
  :: owner == h -> owner = ORPHANS
  :: else
  fi;
  unlock();
#ifdef PLANT_settled_first
  settle(h);
  attended[h] = false;
#else
  attended[h] = false;
  settle(h);
#endif
#ifndef PLANT_sweep_left_behind
  if
  :: sweep_wanted[h] -> lock(); sweep_wanted[ORPHANS] = true; unlock()
  :: else
  fi;
#endif
  b = 0
}

/* adopt_orphan */
inline adopt(h) {
  lock();
  if
  :: sweep_wanted[ORPHANS] -> fold(ORPHANS)
  :: else
  fi;
  if
  :: owner == ORPHANS -> /* adopt_slow */
    owner = h;
#ifndef PLANT_adopted_unseen
    /* Whoever deferred before this may ask the orphans only now, or have asked them already. */
    sweep_slab()
#endif
  :: else
  fi;
  unlock()
}

proctype ThreadA() {
  byte b, o, now, mine0, mine1;
  bool asked;
  retire(HA);
  /* take_heap_slow: the next thread is given the heap. */
  attended[HA] = true;
  adopt(HA);
  done++
}

proctype ThreadB() {
  byte b, o, now, mine0, mine1;
  bool asked;
  adopt(HB);
  retire(HB);
  done++
}

/* free_block */
proctype Stranger(byte block; bool may_defer) {
  byte b, o, now, to, mine0, mine1;
  bool asked;
again:
  to = owner;
  if
  :: to == ORPHANS -> /* free_orphan */
    lock();
    if
    :: owner == ORPHANS ->
      if
      :: atomic { state[block] == LIVE -> state[block] = REMOTE; effective[block]++ } /* take_slot */
        atomic { state[block] = FREE; place(block) } /* give_back */
      :: atomic { state[block] != LIVE -> skip } /* told */
      fi;
      unlock()
    :: else -> unlock(); goto again
    fi
  :: else -> /* free_remote */
    if
    :: atomic { state[block] == LIVE -> state[block] = REMOTE; effective[block]++ } /* take_remotely */
      if
      :: may_defer -> defer(block) /* no memory for a batch; or a nested call */
      :: true -> /* send */
        inbox[to * 2 + block]++; /* post */
#ifndef PLANT_active_not_asked
        if
        :: !attended[to] -> settle(to)
        :: else
        fi
#endif
      fi
    :: atomic { state[block] != LIVE -> skip } /* told */
    fi
  fi;
  done++
}

proctype Audit() {
  byte b, o, now, round, mine0, mine1;
  bool asked;
  /* Nobody else runs any more. */
  atomic {
    done == 4;
    assert(attended[HA] && !attended[HB]);
    assert(inbox[HB * 2] == 0 && inbox[HB * 2 + 1] == 0);
    do
    :: round < 2 -> fold(HA); fold(ORPHANS); round++
    :: else -> break
    od;
    do
    :: b < BLOCKS ->
      assert(placed[b] == (effective[b] > 0));
      assert(state[b] == (placed[b] -> FREE : LIVE));
      b++
    :: else -> break
    od
  }
}

init {
  byte which;
  atomic {
    attended[HA] = true;
    attended[HB] = true;
    select(which : 0 .. 1);
    run ThreadA();
    run ThreadB();
    run Stranger(0, false);
    run Stranger(which, true);
    run Audit()
  }
}
