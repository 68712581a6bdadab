/* A thread keeps a heap of an attached pool, and takes and gives there without the lock, while the pool is detached in each mode.
 *
 * Code: PoolHeap::pop_hint, push_hint, serves, settled, sweep_deferred (src/heap/pool_heap.hpp); mark, flush_hints, flush_half, take,
 * take_back, reclaim (src/heap/pool_heap.cpp); Pool::allocate, free, free_to, live_from, is_held, unmark, settle, close, provide,
 * may_reclaim (src/heap/pool.cpp); AttachedPools::give (src/heap/attached_pools.hpp); ask, take_slow, finish_give, allocate_in, free_live,
 * free_unpinned, note_deferred (src/heap/pool_blocks.cpp); detach, start_drain, has_drained (src/heap/attached_pools.cpp); take_slot,
 * try_take (src/heap/free_steps.cpp); AllocatorCore::allocate_placed, take_placed, finish_placed (src/heap/core_blocks.cpp); take_remotely,
 * defer_nested, deallocate_nested (src/heap/core_frees.cpp); mark_pinned, unpin_slot, unpin (src/heap/core_regions.cpp); Heap::defer
 * (src/heap/heap.cpp); Door::enter, leave, shut (src/heap/door.hpp); ~Gate (src/heap/core.hpp).
 *
 * One pool with one slab of two slots. Slot 0 is kCached, and the keeper, the thread with the heap, has a hint of it. Slot 1 is live. The
 * keeper takes, gives what it took, and may free slot 1. One thread detaches, in any mode. Beside them one of these: a thread frees slot 1 under
 * the lock (then there are two detaches); one frees it in a signal handler; one pins either slot, held or not, and unpins it; one allocates
 * under the lock, reclaiming what is cached, and frees that; one frees a block, in a signal handler, that was freed before and whose place
 * is a slot of this pool by now (stale). One makes a call elsewhere now, and one when all is quiet.
 *
 * Claims: no slot is handed out while it has a holder, nor from a pool that has gone; what goes by kBusy or by draining has no holder and no
 * pin; of two frees of a block exactly one is answered ok, unless it has its next holder by then; when all is quiet no slot is lost, and
 * a pool that drains, without holders and pins, has gone, whichever thread makes the next call.
 *
 * KNOWN_stale_drain: the last claim, where a stale free marked a slot at the moment at which ask gave it back. The mark comes off as
 * kLive, and nobody has the slot. (Where it marked a holder's slot at the moment of his free, that is stale_free KNOWN_blame.)
 *
 * PLANT_kept_back: an allocation that may reclaim is refused only where no thread keeps a slot cached, but for one in the middle of a
 * call. The plant takes it that a heap that is marked has been reclaimed. But a detach that finds a pin marks the heaps, too, and
 * leaves them so.
 *
 * PLANT_served_first looks whether the heap serves before the swap, and not after it. PLANT_looked_first has detach look at the states before it
 * marks. PLANT_drain_unasked and PLANT_pool_unasked have ask not look whether the pool drains, or is still the same. PLANT_give_silent has
 * a free in a pool that drains not look at the drain. PLANT_give_stored looks at the state and then stores, where give swaps.
 *
 * PLANT_own_look has a call end that asked, and was served by another pool, without a look at the drain; only its thread would know. PLANT_stray_pin has ask take
 * its slot back from kLive only; it may be pinned by then, and nobody gives it back. PLANT_remote_free has live_from not take kRemote for
 * held, though a stale free may have marked a holder's slot so for a moment.
 *
 * Memory: mark's stores and the keeper's swap are sequentially consistent, and so are the loads that come after them. PLANT_mark_buffered has
 * the stores wait in the processor's store buffer, as x86 has it for any weaker store, until the lock is given up.
 *
 * Taken for granted: the locks; lists_ is held only by who detaches or settles, and the pool's lock stands for it. Left out: books and their
 * slabs (pool_hints); pages; what else the door is for (door); a batch of tries in take_slot (pinned_free).
 */
#define SLOTS 2
#define NONE 255
#define ROOM 2  /* of a stack */
#define CALLS 2
#define LOOKS 2 /* 2^18 in the code */
#define OTHERS 4 /* processes besides Audit */

mtype = { FREE, LIVE, CACHED, REMOTE, DEFERRED, PINNED, PINNED_FREED, PINNED_TAKEN };
mtype = { BUSY, DRAIN, REVOKE };
mtype = { CLOSED, HAS_PIN, WAITS };

mtype state[SLOTS];
bool pool;
bool registry;
bool stands = true;   /* Pool::id is what it was */
bool inserted = true; /* the region is in the registry */
bool draining;
byte drained_to;
bool serves = true;   /* not PoolHeap::stopped_, of the keeper's heap */
bool marked;          /* its marked_at is not 0 */
bool first;           /* and is the count of the last mark */
bool reclaimed;       /* and is not above the count of the last reclaim */
bool buffered;        /* the store of stopped_ is on its way */
bool pinned;          /* a pin stands in the table */
bool door_open = true;
byte inside;
bool sweep_wanted;
bool drains_wait; /* AttachedPools::drains_wait_ */
byte done;

/* Ghosts. */
bool held[SLOTS]; /* by a caller */
byte life[SLOTS]; /* counts swaps to kLive */
bool mistaken;    /* a free too many took a block from its next holder: that cannot be told apart */
bool revoked;
bool stale;       /* a stale free marked a slot */
bool in_call;     /* the keeper; for PLANT_kept_back */

#ifdef PLANT_kept_back
#define PLANTED_OR_RECLAIMED true
#else
#define PLANTED_OR_RECLAIMED reclaimed
#endif
#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false
/* The store buffer is first in, first out, so what gives up the lock comes last. */
#define unlock_pool() atomic { !buffered -> pool = false }

/* Pool::is_held */
#ifdef PLANT_remote_free
#define is_held(s) (state[s] != FREE && state[s] != CACHED && state[s] != DEFERRED && state[s] != REMOTE)
#else
#define is_held(s) (state[s] != FREE && state[s] != CACHED && state[s] != DEFERRED)
#endif

/* A free takes the slot from the holder of that life. */
inline accept(s, its_life) {
  if
  :: life[s] == its_life -> assert(held[s] || mistaken || revoked)
  :: life[s] != its_life -> mistaken = true
  fi;
  held[s] = false;
  ok = true
}

/* kDoubleFree, or kForeignFree when the pool has gone. */
#define told(s, its_life) assert(!(held[s] && life[s] == its_life) || mistaken || revoked || stale || !stands)

inline hand_out(s) {
  assert(stands);
  assert(!held[s] || mistaken);
  held[s] = true
}

/* Pool::mark: into first, whether it is the keeper's first one. */
inline mark() {
  atomic {
    first = !marked;
    marked = true;
#ifdef PLANT_mark_buffered
    buffered = serves
#else
    serves = false
#endif
  }
}

inline take_back(s, from) {
  atomic {
    if
    :: state[s] == from -> state[s] = FREE
    :: else
    fi
  }
}

/* The first slot that is held, into live. */
inline live_from() {
  atomic { at = drained_to; live = NONE }
  do
  :: atomic { at < SLOTS && live == NONE && is_held(at) -> live = at }
  :: atomic { at < SLOTS && live == NONE && !is_held(at) -> at++ }
  :: atomic { at == SLOTS || live != NONE -> at = 0; break }
  od
}

/* AttachedPools::close and Pool::close; the pool's lock is held. Into closed. */
inline close(by_revoke) {
  atomic { !registry && !buffered -> registry = true } /* a lock is taken by an exchange, which drains the store buffer */
  if
  :: pinned -> closed = HAS_PIN
  :: !pinned ->
    door_open = false; /* Door::shut */
    atomic {
      if
      :: inside == 0 -> closed = CLOSED; inserted = false
      :: inside != 0 -> closed = WAITS
      fi
    }
  fi;
  unlock(registry);
  if
  :: atomic { closed == CLOSED ->
      assert(by_revoke || mistaken || (!held[0] && !held[1]));
      assert(!pinned);
      stands = false;
      draining = false;
      revoked = revoked || by_revoke;
      held[0] = false;
      held[1] = false
    }
  :: closed != CLOSED
  fi
}

/* AttachedPools::settle */
inline settle_drains() {
  atomic { drains = false; drains_wait = false }
  lock(pool);
  if
  :: stands && draining ->
    live_from(); /* has_drained */
    if
    :: live != NONE -> drained_to = live
    :: live == NONE ->
      close(false);
      if
      :: closed == WAITS ->
        drains_wait = true;
        close(false)
      :: closed != WAITS
      fi
    fi
  :: !stands || !draining
  fi;
  atomic { live = NONE; closed = 0; unlock_pool() }
}

/* ~Gate; finish_placed, allocate_placed, take_placed ask the same. */
inline end_call() {
  if
  :: drains || drains_wait -> settle_drains()
  :: !drains && !drains_wait
  fi
}

/* Pool::free, by way of AttachedPools::free; the lock is held. */
inline free_locked(s, its_life) {
  if
  :: atomic { !draining && n == NONE && state[s] == LIVE -> state[s] = FREE; accept(s, its_life) } /* free_live, of who keeps nothing */
  :: atomic { state[s] == LIVE -> state[s] = REMOTE; accept(s, its_life) } /* take_slot, try_take */
    take_back(s, REMOTE)
  :: atomic { state[s] == PINNED -> state[s] = PINNED_FREED; accept(s, its_life) }
  :: atomic { state[s] != LIVE && state[s] != PINNED -> told(s, its_life) }
  fi;
  drains = drains || draining
}

/* Pool::reclaim, but for the slabs */
inline reclaim() {
  mark();
  reclaimed = true;
  take_back(0, CACHED);
  take_back(0, DEFERRED);
  take_back(1, CACHED);
  take_back(1, DEFERRED)
}

/* sweep_deferred */
inline sweep() {
  if
  :: atomic { sweep_wanted -> sweep_wanted = false }
    take_back(0, DEFERRED);
    take_back(1, DEFERRED)
  :: !sweep_wanted
  fi
}

/* PoolHeap::take: a slot, into got. provide has looked that there is one. */
inline take(s) {
  state[s] = CACHED;
  if
  :: atomic { state[s] == CACHED -> state[s] = LIVE; life[s]++; hand_out(s); got = s }
  :: state[s] != CACHED /* a hint that is out of date was quicker */
  fi
}

/* Pool::allocate's place */
inline place() {
  do
  :: got == NONE && state[0] == FREE -> take(0)
  :: got == NONE && state[0] != FREE && state[1] == FREE -> take(1)
  :: got != NONE || (state[0] != FREE && state[1] != FREE) -> break
  od
}

/* ---- The keeper ---- */

inline flush_hints() {
  do
  :: n > 0 ->
    n--;
    take_back(hint[n], CACHED);
    hint[n] = 0
  :: n == 0 -> break
  od
}

/* Pool::settle, settled */
inline settle() {
  if
  :: marked ->
    flush_hints();
    atomic { marked = false; reclaimed = false; serves = true }
  :: !marked
  fi
}

inline push_hint(s) { atomic { hint[n] = s; n++ } }

#ifdef PLANT_pool_unasked
#define pool_unasked true
#else
#define pool_unasked false
#endif

inline ask() {
  lock(pool);
  if
#ifndef PLANT_pool_unasked
  :: !stands -> got = NONE
#endif
#ifndef PLANT_drain_unasked
  :: stands && draining ->
#ifdef PLANT_stray_pin
    take_back(got, LIVE);
#else
    if /* Pool::free, of a slot that nobody holds */
    :: atomic { state[got] == LIVE -> state[got] = REMOTE } take_back(got, REMOTE)
    :: atomic { state[got] == PINNED -> state[got] = PINNED_FREED }
    :: atomic { state[got] != LIVE && state[got] != PINNED -> assert(stale || mistaken) }
    fi;
#endif
    got = NONE;
    drains = true
  :: !draining && (stands || pool_unasked) ->
#else
  :: stands ->
#endif
    settle();
    atomic { hand_out(got) }
  fi;
  unlock_pool()
}

inline pop_hint() {
  asked = false;
  do
  :: n == 0 || got != NONE -> break
  :: n > 0 && got == NONE ->
#ifdef PLANT_served_first
    if
    :: serves
    :: !serves -> break
    fi;
    if
    :: atomic { state[hint[n - 1]] == CACHED -> state[hint[n - 1]] = LIVE; got = hint[n - 1]; life[got]++; hand_out(got) }
#else
    if
    :: atomic { state[hint[n - 1]] == CACHED -> state[hint[n - 1]] = LIVE; got = hint[n - 1]; life[got]++ }
      if
      :: atomic { serves -> hand_out(got) }
      :: atomic { !serves -> asked = true }
      fi
#endif
    :: state[hint[n - 1]] != CACHED
    fi;
    atomic { n--; hint[n] = 0 }
  od;
  if
  :: asked -> ask()
  :: !asked
  fi
}

/* Into got. allocate_placed, and allocate_in when nothing came of that. */
inline allocate() {
  pop_hint();
  if
  :: got != NONE && !asked
#ifndef PLANT_own_look
  :: asked -> end_call()
#else
  :: asked
#endif
  :: got == NONE -> /* where asked, take_slow found no other pool to serve it */
    lock(pool);
    if
    :: stands && !draining ->
      settle();
      sweep();
      place();
      if
      :: got == NONE -> /* may_reclaim says yes, for another thread's heap that is not here */
        reclaim();
        settle();
        place()
      :: got == NONE
      :: got != NONE && n == 0 && (state[0] == FREE || state[1] == FREE) -> /* fill_stack */
        atomic {
          other = 1 - got;
          if
          :: state[other] == FREE -> state[other] = CACHED; push_hint(other)
          :: else
          fi;
          other = 0
        }
      :: got != NONE && (n != 0 || (state[0] != FREE && state[1] != FREE))
      fi
    :: !stands || draining /* kNotFound */
    fi;
    unlock_pool();
    end_call()
  fi
}

inline finish_give() {
  lock(pool);
  if
  :: !stands
  :: stands && draining ->
#ifdef PLANT_give_silent
    skip
#else
    drains = true
#endif
  :: stands && !draining -> settle()
  fi;
  unlock_pool()
}

/* free_live, and what it leaves over */
inline free_slow(s, its_life) {
  lock(pool);
  if
  :: stands && !draining ->
    settle();
    if
    :: n == ROOM -> /* flush_half */
      take_back(hint[0], CACHED);
      atomic { n--; hint[0] = hint[1]; hint[1] = 0 }
    :: n < ROOM
    fi;
    atomic { /* free_to */
      if
      :: state[s] == LIVE -> state[s] = CACHED; accept(s, its_life); push_hint(s)
      :: else
      fi
    }
  :: !stands || draining
  fi;
  if
  :: !ok && stands -> free_locked(s, its_life)
  :: atomic { !ok && !stands -> told(s, its_life) }
  :: ok
  fi;
  unlock_pool()
}

/* AttachedPools::give, and what it leaves over */
inline give(s, its_life) {
  atomic { ok = false; looks = true }
  if
  :: serves && n < ROOM ->
    if
#ifdef PLANT_give_stored
    :: state[s] == LIVE ->
      atomic { state[s] = CACHED; accept(s, its_life) }
#else
    :: atomic { state[s] == LIVE -> state[s] = CACHED; accept(s, its_life) }
#endif
      push_hint(s);
      if
      :: serves -> looks = false
      :: !serves -> finish_give()
      fi
    :: state[s] != LIVE
    fi
  :: !serves || n == ROOM
  fi;
  if
  :: ok
  :: !ok -> free_slow(s, its_life)
  fi;
  ok = false;
  if
  :: looks -> end_call()
  :: !looks
  fi;
  looks = false
}

proctype Keeper(bool frees_too) {
  byte hint[ROOM];
  byte n = 1;
  byte got = NONE;
  byte at, other, its_life;
  byte live = NONE;
  byte calls = 0;
  mtype closed;
  bool ok, asked, drains, looks;
  do
  :: calls < CALLS && got == NONE ->
#ifdef PLANT_kept_back
    in_call = true;
#endif
    allocate();
    atomic {
      calls++;
      in_call = false;
      asked = false;
      if
      :: got != NONE -> its_life = life[got]
      :: else
      fi
    }
  :: calls < CALLS && got != NONE ->
#ifdef PLANT_kept_back
    in_call = true;
#endif
    give(got, its_life);
    atomic { calls++; got = NONE; its_life = 0; in_call = false }
  :: calls < CALLS && frees_too ->
#ifdef PLANT_kept_back
    in_call = true;
#endif
    frees_too = false;
    give(1, 0);
    atomic { calls++; in_call = false }
  :: calls == CALLS -> break
  od;
  done++
}

/* ---- The others ---- */

proctype Freer() {
  byte at;
  byte n = NONE;
  byte live = NONE;
  mtype closed;
  bool ok, drains;
  lock(pool);
  if
  :: stands -> free_locked(1, 0)
  :: atomic { !stands -> told(1, 0) }
  fi;
  unlock_pool();
  end_call();
  done++
}

/* deallocate_nested */
proctype Handler() {
  bool ok, kept, entered;
  if
  :: inserted ->
    inside++; /* Door::enter */
    if
    :: door_open -> entered = true
    :: !door_open
    fi;
    if
    :: entered ->
      if /* take_remotely, try_take */
      :: atomic { state[1] == LIVE -> state[1] = REMOTE; accept(1, 0) }
      :: atomic { state[1] == PINNED -> state[1] = PINNED_TAKEN; accept(1, 0); kept = true }
      :: atomic { state[1] != LIVE && state[1] != PINNED -> told(1, 0) }
      fi;
      if
      :: kept ->
        atomic {
          if
          :: state[1] == PINNED_TAKEN -> state[1] = PINNED_FREED; ok = false
          :: else /* the last pin has gone */
          fi
        }
      :: !kept
      fi;
      if
      :: ok -> atomic { assert(state[1] == REMOTE); state[1] = DEFERRED } /* Heap::defer, in defer_nested */
      :: !ok
      fi
    :: !entered /* kReentered */
    fi;
    inside--; /* Door::leave */
    if
    :: ok -> /* note_deferred */
      sweep_wanted = true;
      drains_wait = true
    :: !ok
    fi
  :: !inserted
  fi;
  done++
}

/* mark_pinned, then unpin. That nobody may hold the block is the program's fault. */
proctype Pinner() {
  byte at;
  byte live = NONE;
  mtype closed;
  bool ok, drains, freed;
  byte s;
  if
  :: s = 0
  :: s = 1
  fi;
  lock(registry);
  if
  :: atomic { inserted && state[s] == LIVE -> state[s] = PINNED; pinned = true }
  :: !(inserted && state[s] == LIVE)
  fi;
  ok = pinned;
  unlock(registry);
  if
  :: ok ->
    lock(registry);
    pinned = false;
    if /* unpin_slot */
    :: atomic { state[s] == PINNED -> state[s] = LIVE }
    :: atomic { state[s] == PINNED_TAKEN -> state[s] = REMOTE }
    :: atomic { state[s] == PINNED_FREED -> state[s] = REMOTE; freed = true }
#ifdef PLANT_give_stored
    :: else
#endif
    fi;
    unlock(registry);
    if
    :: freed -> /* free_unpinned */
      lock(pool);
      if
      :: stands -> take_back(s, REMOTE)
      :: !stands
      fi;
      unlock_pool()
    :: !freed
    fi;
    drains = true; /* unpin */
    end_call()
  :: !ok
  fi;
  done++
}

/* Keeps nothing of the pool: allocate_in, and a free. */
proctype Allocator() {
  byte at;
  byte n = NONE;
  byte live = NONE;
  byte got = NONE;
  mtype closed;
  bool ok, drains;
  lock(pool);
  if
  :: stands && !draining ->
    sweep();
    place();
    if
#ifdef PLANT_kept_back
    :: got == NONE && !marked ->
#else
    :: got == NONE && !(marked && reclaimed) -> /* may_reclaim */
#endif
      reclaim();
      place()
    :: got == NONE && marked && PLANTED_OR_RECLAIMED ->
#ifdef PLANT_kept_back
      assert(in_call || (state[0] != CACHED && state[1] != CACHED))
#else
      skip
#endif
    :: got != NONE
    fi
  :: !stands || draining
  fi;
  unlock_pool();
  end_call();
  if
  :: got != NONE ->
    at = life[got];
    lock(pool);
    if
    :: stands -> free_locked(got, at)
    :: !stands
    fi;
    unlock_pool();
    at = 0;
    end_call()
  :: got == NONE
  fi;
  done++
}

/* ~Gate of calls elsewhere */
proctype Elsewhere(bool early) {
  byte at;
  byte live = NONE;
  mtype closed;
  bool drains;
  if
  :: early -> end_call()
  :: !early
  fi;
  done++;
  done == OTHERS;
  end_call();
  done++
}

/* AttachedPools::detach */
proctype Detacher(byte times) {
  byte at;
  byte live = NONE;
  byte looks;
  mtype closed, mode;
  do
  :: times == 0 || !stands -> break
  :: times > 0 && stands ->
    if
    :: mode = BUSY
    :: mode = DRAIN
    :: mode = REVOKE
    fi;
    looks = 0;
    do
    :: looks < LOOKS ->
      lock(pool);
      if
      :: !stands -> unlock_pool(); break /* kNotFound */
      :: stands
      :: stands && looks != 0 -> door_open = false /* shut, by each look but the last, which goes on only where nobody is inside */
      fi;
#ifdef PLANT_looked_first
      if
      :: mode != REVOKE -> live_from()
      :: mode == REVOKE
      fi;
      mark();
#else
      mark();
      if
      :: mode != REVOKE -> live_from()
      :: mode == REVOKE
      fi;
#endif
      if
      :: live != NONE ->
        atomic {
          live = NONE;
          door_open = true;
          if
          :: mode == DRAIN -> draining = true /* start_drain */
          :: mode == BUSY && !draining && first && !buffered -> marked = false; reclaimed = false; serves = true /* unmark */
          :: mode == BUSY && (draining || !first || buffered)
          fi
        }
        unlock_pool();
        break
      :: live == NONE ->
        close(mode == REVOKE);
        looks++;
        if
        :: closed == CLOSED || closed == HAS_PIN || looks == LOOKS ->
          if
          :: closed != CLOSED -> door_open = true
          :: closed == CLOSED
          fi;
          unlock_pool();
          break
        :: closed == WAITS && looks < LOOKS -> unlock_pool()
        fi
      fi
    od;
    atomic { times--; closed = 0; looks = 0; live = NONE }
  od;
  done++
}

#ifdef PLANT_mark_buffered
/* The detacher's, and whoever else marks */
proctype StoreBuffer() {
end:
  do
  :: atomic { buffered -> serves = false; buffered = false }
  od
}
#endif

/* take_remotely of a stale free: it found the book when that was another slab's, maybe of another pool. */
proctype Stale() {
  byte s;
  if
  :: s = 0
  :: s = 1
  fi;
  if
  :: atomic { state[s] == LIVE -> state[s] = REMOTE; stale = true }
    atomic { assert(state[s] == REMOTE); state[s] = LIVE } /* is_still says no */
  :: state[s] != LIVE
  fi;
  done++
}

proctype Audit() {
  byte s;
  done == OTHERS + 1;
#ifdef KNOWN_stale_drain
  assert(!(stands && draining && !held[0] && !held[1] && !pinned) || mistaken);
#else
  assert(!(stands && draining && !held[0] && !held[1] && !pinned) || mistaken || stale);
#endif
  do
  :: s < SLOTS ->
    assert(!stands || mistaken || stale || !held[s] || state[s] == LIVE);
    assert(!stands || mistaken || stale || held[s] || state[s] == FREE || state[s] == CACHED || state[s] == DEFERRED);
    s++
  :: s == SLOTS -> break
  od
}

init {
  bool frees_too;
  atomic {
    state[0] = CACHED;
    state[1] = LIVE;
    held[1] = true;
    if
    :: frees_too = true
    :: skip
    fi;
    if
#ifdef PLANT_kept_back
    :: pinned = true; run Allocator(); run Elsewhere(false); run Detacher(1) /* somebody has pinned the whole pool */
#elif !defined(KNOWN_stale_drain) && !defined(PLANT_remote_free) /* both are of the last one */
    :: run Pinner(); run Elsewhere(false); run Detacher(1)
    :: run Freer(); run Elsewhere(false); run Detacher(2)
    :: run Handler(); run Elsewhere(true); run Detacher(1)
    :: run Allocator(); run Elsewhere(false); run Detacher(1)
#endif
#ifndef PLANT_kept_back
    :: run Stale(); run Elsewhere(false); run Detacher(1)
#endif
    fi;
    run Keeper(frees_too);
#ifdef PLANT_mark_buffered
    run StoreBuffer();
#endif
    run Audit()
  }
}
