/* Frees by the owner and by others of the same blocks: batches, deferral, the sweep, double frees at one moment.
 *
 * Code: Heap::pop, push, refill_slow, fold_slow, take_back, sweep, defer, post, take_inbox (src/heap/heap.*);
 * AllocatorCore::deallocate (src/heap/core_blocks.cpp), free_own, take_remotely, free_remote, deallocate_nested
 * (src/heap/core_frees.cpp).
 *
 * One slab that stays, its owner's heap, two strangers. Everybody frees whatever block he likes, so double frees come in
 * every order: by owner and stranger, by two strangers, late by a whole life of the block. A free in a nested call is a
 * stranger's that defers. Batches hold two blocks and there are three, so trusted memory runs out, too.
 *
 * Claims: a block is put into a place (stack or slab) only once for each time that it was handed out, and only after it
 * was freed; when all is quiet no freed block is lost, and each free too many was told or met the one case that
 * docs/concurrency.md grants: a kDeferred overwritten by the owner's store.
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
    i = 0;
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

inline fold() {
  atomic { batch = inbox; inbox = NONE }
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
      :: top == 0 ->
        fold();
        d_step {
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
      atomic {
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
    :: /* free */
      select(b : 0 .. BLOCKS - 1);
      atomic {
        if
        :: state[b] == LIVE -> took_effect(b)
        :: else -> goto next
        fi
      }
      /* Here a stranger's compare-and-swap may come. */
      atomic { store_over(b, CACHED); place(b); stack[top] = b; top++ }
    :: true -> /* flush */
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
    :: /* nested, or no memory for a batch */ defer(b)
    :: box == NONE -> atomic {
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
  if
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
