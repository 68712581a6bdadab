/* Frees by the owner and by others of the same blocks: batches, deferral, the sweep, double frees at one moment.
 *
 * Code: Heap::pop, push, post, take_inbox (src/heap/heap.hpp); refill_slow, flush_slow, fold_slow, take_back, sweep, sweep_slab, defer
 * (src/heap/heap.cpp); take (src/slab/slab.cpp); AllocatorCore::deallocate (src/heap/core_blocks.cpp); free_own,
 * take_remotely, free_remote, deallocate_nested, send_outboxes (src/heap/core_frees.cpp); try_take (src/heap/free_steps.cpp).
 *
 * One slab that stays, its owner's heap, two strangers. Everybody frees whatever block he likes, so double frees come in
 * every order: by owner and stranger, by two strangers, late by a whole life of the block. A free in a nested call is a
 * stranger's that defers. Batches hold two blocks and there are three, so trusted memory runs out, too.
 *
 * Claims: a block is put into a place (stack or slab) only once for each time that it was handed out, and only after it
 * was freed; when all is quiet no freed block is lost, and each free too many was told or met the one case that
 * docs/concurrency.md grants: a kDeferred overwritten by the owner's store.
 *
 * Folded: pop and push store the state and move the stack's top in one step, for nobody but the owner reads the stack, and its signal handlers,
 * which find busy_, do not; take and flush_slow change only states that nobody but the owner changes (kFree, kCached); sweep_slab counts the
 * kDeferred before it gives them back, and nobody else changes one. Left out: is_still, for the slab stays (stale_free); pins (pinned_free); the notes
 * of nested frees (check_nested_frees).
 *
 * Taken for granted: what is released with a state or a batch is seen by whoever acquires it (compare-and-swap of states,
 * Heap::inbox_). No claim here rests on two locations but sweep_ and states, which are written and read seq_cst or after a
 * seq_cst exchange.
 */
#define BLOCKS 2
#define NODES 3
#define NONE 255
#define OWNER_CALLS 3
#define STRANGER_CALLS 2

mtype = { FREE, LIVE, CACHED, REMOTE, DEFERRED };

mtype state[BLOCKS];
bool sweep_wanted;
byte inbox = NONE;
byte next_of[NODES];
byte count_of[NODES];
byte blocks_of[6]; /* two for each node */
bool used[NODES];
byte stack[BLOCKS];
byte top;
byte done;

/* Ghosts. */
bool placed[BLOCKS];   /* in the slab or on the stack */
byte effective[BLOCKS]; /* frees that took effect since it was handed out */
byte surplus;          /* frees that took effect beside another one */
byte told;
byte untold;

inline took_effect(b) {
  if
  :: effective[b] > 0 -> surplus++
  :: else
  fi;
  effective[b]++
}

inline place(b) {
  assert(!placed[b]);
  assert(effective[b] > 0);
  placed[b] = true
}

/* The owner's plain store over whatever a stranger may have put there since the load. */
inline store_over(b, s) {
  if
  :: state[b] == DEFERRED -> untold++
  :: else
  fi;
  state[b] = s
}

/* take_back: the look, then push (or give_back) */
inline take_back(b) {
#ifdef PLANT_batch_believed
  if
  :: true
#else
  if
  :: state[b] != REMOTE -> told++
  :: else
#endif
    -> atomic { store_over(b, CACHED); place(b); stack[top] = b; top++ }
  fi
}

inline sweep() {
  if
  :: sweep_wanted ->
#ifndef PLANT_flag_cleared_last
    sweep_wanted = false;
#endif
    i = 0; /* sweep_slab: the look, then give_back */
    do
    :: i < BLOCKS ->
      if
      :: state[i] == DEFERRED -> atomic { state[i] = FREE; place(i) }
      :: else
      fi;
      i++
    :: else -> break
    od
#ifdef PLANT_flag_cleared_last
    ; sweep_wanted = false
#endif
  :: else
  fi
}

/* fold_slow */
inline fold() {
  if
  :: inbox != NONE -> /* has_inbox */
#ifdef PLANT_inbox_not_exchanged
    batch = inbox;
    inbox = NONE
#else
    atomic { batch = inbox; inbox = NONE } /* take_inbox */
#endif
  :: inbox == NONE
  fi;
  do
  :: batch != NONE ->
    i = 0;
    do
    :: i < count_of[batch] -> take_back(blocks_of[batch * 2 + i]); i++
    :: else -> break
    od;
    atomic { used[batch] = false; batch = next_of[batch] }
  :: else -> break
  od;
  sweep();
  atomic { i = 0; batch = NONE }
}

proctype Owner() {
  byte calls, b, i, batch = NONE;
  do
  :: calls < OWNER_CALLS ->
    calls++;
    if
    :: true -> /* allocate */
      if
      :: top == 0 -> /* refill_slow */
        fold();
        d_step { /* take */
          i = BLOCKS;
          do
          :: top == 0 && i > 0 && state[i - 1] == FREE -> state[i - 1] = CACHED; stack[top] = i - 1; top++; i--
          :: top != 0 && i > 0 && state[i - 1] == FREE -> state[i - 1] = CACHED; stack[top] = i - 1; top++; i--
          :: i > 0 && state[i - 1] != FREE -> i--
          :: i == 0 -> break
          od
        }
      :: else
      fi;
      atomic { /* pop */
        if
        :: top > 0 ->
          top--;
          b = stack[top];
          assert(placed[b]);
          placed[b] = false;
          effective[b] = 0;
          state[b] = LIVE;
          b = 0
        :: else
        fi
      }
    :: /* deallocate, free_own */
      select(b : 0 .. BLOCKS - 1);
      atomic {
        if
        :: state[b] == LIVE -> took_effect(b)
        :: else -> goto next
        fi
      }
      /* Here a stranger's compare-and-swap may come. */
      atomic { store_over(b, CACHED); place(b); stack[top] = b; top++ } /* push */
    :: true -> /* flush_slow */
      fold();
      d_step {
        do
        :: top > 0 -> top--; state[stack[top]] = FREE
        :: else -> break
        od
      }
    fi;
next:
    b = 0
  :: else -> break
  od;
  done == 2;
  /* Nobody else runs any more. */
  atomic {
    fold();
    i = 0;
    do
    :: i < BLOCKS ->
      assert(state[i] != REMOTE && state[i] != DEFERRED);
      assert(placed[i] == (state[i] != LIVE));
      assert(state[i] != LIVE || effective[i] == 0);
      i++
    :: else -> break
    od;
    assert(surplus == told + untold)
  }
}

inline post() {
  do
  :: head = inbox;
    next_of[box] = head;
    atomic {
      if
      :: inbox == head -> inbox = box; box = NONE; head = NONE; break
      :: else
      fi
    }
  od
}

inline defer(b) {
#ifdef PLANT_deferral_stored
  state[b] = DEFERRED;
  sweep_wanted = true
#else
  atomic {
    if
    :: state[b] == REMOTE -> state[b] = DEFERRED; asked = true
    :: else -> told++
    fi
  }
  if
  :: asked -> sweep_wanted = true; asked = false
  :: else
  fi
#endif
}

proctype Stranger() {
  byte calls, b, head = NONE, box = NONE;
  bool asked;
  do
  :: calls < STRANGER_CALLS ->
    calls++;
    select(b : 0 .. BLOCKS - 1);
    /* take_remotely: try_take */
#ifdef PLANT_no_compare
    if
    :: state[b] == LIVE -> atomic { took_effect(b); state[b] = REMOTE }
    :: else -> goto next
    fi;
#else
    atomic {
      if
      :: state[b] == LIVE -> took_effect(b); state[b] = REMOTE
      :: else -> goto next
      fi
    }
#endif
    if
    :: /* deallocate_nested, or no memory for a batch */ defer(b)
    :: box == NONE -> atomic { /* free_remote */
        if
        :: !used[0] -> box = 0
        :: used[0] && !used[1] -> box = 1
        :: used[0] && used[1] && !used[2] -> box = 2
        fi;
        used[box] = true;
        count_of[box] = 1;
        blocks_of[box * 2] = b
      }
    :: box != NONE ->
      atomic { blocks_of[box * 2 + 1] = b; count_of[box] = 2 }
      post()
    fi;
next:
    b = 0
  :: else -> break
  od;
  if /* send_outboxes */
  :: box != NONE -> post()
  :: else
  fi;
  done++
}

init {
  atomic {
    /* Both are handed out. */
    state[0] = LIVE;
    state[1] = LIVE;
    run Owner();
    run Stranger();
    run Stranger()
  }
}
