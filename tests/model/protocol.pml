/* One key of the protocol, as the scripts of foreseen/scripts and the two engines play it; README.md says what is left
   out and why that is sound. A configuration defines budgets of faults, includes this file and says who submits.

   Every script is an inline of its name, called inside one `atomic`: the server runs nothing between its lines. Between
   two scripts everything may happen. Each guard that matters stands under a switch WITHOUT_..., which removes it. */

/* --- how often each fault may happen -------------------------------------------------------------------------------- */
#ifndef CHILD_DEATHS
#define CHILD_DEATHS 0        /* the process that computes dies; its parent gives the flight up */
#endif
#ifndef WORKER_DEATHS
#define WORKER_DEATHS 0       /* a whole worker dies, and starts again */
#endif
#ifndef STOPS
#define STOPS 0               /* a holder stops for longer than its lease, and goes on */
#endif
#ifndef REDELIVERIES
#define REDELIVERIES 0        /* the broker delivers again what a living worker has */
#endif
#ifndef LOST_MESSAGES
#define LOST_MESSAGES 0
#endif
#ifndef LOST_PUSHES
#define LOST_PUSHES 0
#endif
#ifndef FAILURES
#define FAILURES 0            /* a computation that ends as a failure */
#endif
#ifndef PURGES
#define PURGES 0
#endif
#ifndef INVALIDATIONS
#define INVALIDATIONS 0
#endif
#ifndef EVICTIONS
#define EVICTIONS 0           /* the cache loses the flight */
#endif
#ifndef EXPIRIES
#define EXPIRIES 0            /* an entry lapses */
#endif
#ifndef PRODUCER_DEATHS
#define PRODUCER_DEATHS 0
#endif
#ifndef LEAVES
#define LEAVES 0              /* a waiter times out, or a publish is refused: both leave */
#endif
#ifndef DUE_EARLY
#define DUE_EARLY 0           /* a copy comes due while its flight's lease, renewed, still stands */
#endif
#ifndef PROBES
#define PROBES 0              /* a look sends a message again although one is still on its way */
#endif
#ifndef LONG_LIVED
#define LONG_LIVED 0          /* 1: entries live longer than end marks, so that a kept result leaves none */
#endif

/* --- bounds: each is asserted, so that reaching one is seen ----------------------------------------------------------- */
#define PRODUCERS 3
#define TOKENS 7
#define ORDERS 20
#define MESSAGES 6
#define RESENDS 6             /* by looks, where the broker had nothing left: more would be a waiter that hangs */

#define BIT(x) (1 << (x))

/* --- what must hold: the numbers are those of README.md -------------------------------------------------------------- */
byte violated = 0;
#define HOLDS(property, what) if :: (what) -> skip :: else -> violated = property; assert(violated != property) fi

/* --- the cache: one bucket, one key ----------------------------------------------------------------------------------- */
#define BLANK 0               /* generation of a flight whose key was invalidated while it ran */
byte generation = 1;
byte order = 0;               /* the bucket's counter; a computation is named by the order of its begin */
byte entry = 0;               /* the computation it holds, 0: none. Its order and the computation's are one */
byte entry_generation = 0;
byte invalidated = 0;         /* order of the last invalidation */
byte ends = 0;                /* end marks, as a set of tokens */
byte outcomes[TOKENS + 1];    /* by token: the computation whose outcome is kept there */

#define NO_FLIGHT 0
#define QUEUED 1
#define RUNNING 2
byte state = NO_FLIGHT;
byte token = 0, replaced = 0; /* replaced: a set */
byte flight_generation = 0;
byte flight_order = 0;
byte holder = 0;              /* the nonce is drawn per delivery; the order of the begin names it as well */
bool lease = false;           /* it stands; time itself is not modelled */
bool published = false;
byte copy = 0, copies = 0;
byte waiters[PRODUCERS];      /* serial by inbox, 0: none */
byte detached[PRODUCERS];
bool anonymous = false;       /* the field 'd:', of a flight opened from its message */

#define LIVE (state == RUNNING && lease)
#define IS_CURRENT (entry != 0 && entry_generation == generation)
#define TOKENS_OF (replaced | BIT(token))
#define IS_WANTED (anonymous || waiters[0] || waiters[1] || waiters[2] || detached[0] || detached[1] || detached[2])

/* --- the broker ------------------------------------------------------------------------------------------------------- */
#define GONE 0
#define READY 1
#define UNACKED 2             /* one record for each tag: an ack of either delivery deletes it */
byte message[MESSAGES + 1];   /* state by id */
byte message_token[MESSAGES + 1], message_number[MESSAGES + 1];
bool message_due[MESSAGES + 1];   /* a copy: not delivered before the lease ends */
byte opened[TOKENS + 1];      /* order of a flight's opening, which its messages carry */
byte tokens_drawn = 0, resent = 0;

/* --- workers ---------------------------------------------------------------------------------------------------------- */
byte working[2];              /* id of the message in hand, 0: none */
byte copying[2];              /* id of the copy that it has published and not yet noted */
byte computing[2];            /* the computation under way */

/* --- producers: what each inbox's submission knows -------------------------------------------------------------------- */
bool waiting[PRODUCERS];
byte joined[PRODUCERS];       /* tokens */
byte not_before[PRODUCERS];
byte inbox[PRODUCERS];        /* the computation that was pushed */

/* --- ghosts: what the properties speak of, unknown to the protocol ---------------------------------------------------- */
byte epoch = 0;               /* purges and invalidations so far */
byte asked[PRODUCERS];        /* epoch of the submission */
byte computed[ORDERS + 1];    /* epoch in which that computation began */
bool failed[ORDERS + 1];
bool owed[PRODUCERS];         /* it was submitted, detached, and no outcome that it may have has come yet */
bool accepted[PRODUCERS];     /* submit has returned */
byte rightful[2];             /* computation whose lease neither lapsed nor ended with its flight, 0: none */
byte rightful_generation[2];
bool disturbed = false;       /* the cache lost something or was told to forget: work may be done twice */

byte child_deaths = CHILD_DEATHS, worker_deaths = WORKER_DEATHS, stops = STOPS, redeliveries = REDELIVERIES,
  lost_messages = LOST_MESSAGES, lost_pushes = LOST_PUSHES, failures = FAILURES, purges = PURGES,
  invalidations = INVALIDATIONS, evictions = EVICTIONS, expiries = EXPIRIES, producer_deaths = PRODUCER_DEATHS,
  leaves = LEAVES, due_early = DUE_EARLY, probes = PROBES;

hidden byte k, sent, code;    /* scratch, within one atomic only */
hidden byte valid, holds, counts, kept, ok;   /* bits cannot be hidden */

/* --- lib/flight.lua --------------------------------------------------------------------------------------------------- */
inline next_order() { HOLDS(9, order < ORDERS); order++ }

inline delete_flight() {
  state = NO_FLIGHT; token = 0; replaced = 0; flight_generation = 0; flight_order = 0; holder = 0; lease = false;
  published = false; copy = 0; copies = 0; anonymous = false;
  k = 0; do :: k < PRODUCERS -> waiters[k] = 0; detached[k] = 0; k++ :: else -> break od
}

/* Joiners stay; the published mark does not. */
inline open_flight(its_token, its_order) {
  if :: state != NO_FLIGHT -> replaced = TOKENS_OF :: else -> replaced = 0 fi;
  state = QUEUED; token = its_token; flight_generation = generation; flight_order = its_order; holder = 0; lease = false;
#ifndef WITHOUT_FRESH_PUBLISHED_MARK
  published = false;
#endif
  copy = 0; copies = 0
}

#ifdef WITHOUT_COPY_RULE
#define HAS_COPY_OUT(id, number) false
#else
#ifdef WITHOUT_COPY_NUMBER
#define HAS_COPY_OUT(id, number) (copies > 0 && copy != (id))
#else
#define HAS_COPY_OUT(id, number) ((number) < copies || ((number) == copies && copies > 0 && copy != (id)))
#endif
#endif

inline leave_end_marks() { ends = ends | TOKENS_OF }

inline keep_outcome(computation) {
  k = 1; do :: k <= TOKENS -> if :: TOKENS_OF & BIT(k) -> outcomes[k] = computation :: else fi; k++ :: else -> break od
}

/* To every inbox that joined; the inbox hands it to submissions that joined one of the tokens. */
inline push(computation) {
  printf("TELL push of computation %d for tokens %d\n", computation, TOKENS_OF);
  k = 0;
  do
  :: k < PRODUCERS ->
    if
    :: (waiters[k] || detached[k]) && waiting[k] && inbox[k] == 0 && (joined[k] & TOKENS_OF) ->
      if :: inbox[k] = computation :: lost_pushes > 0 -> lost_pushes-- fi
    :: else
    fi;
    k++
  :: else -> break
  od
}

/* --- the client's half of an answer ----------------------------------------------------------------------------------- */
inline answer(p, computation) {
  printf("TELL producer %d is answered with computation %d\n", p, computation);
  HOLDS(5, computed[computation] >= asked[p]);
  HOLDS(4, computation >= not_before[p]);       /* a refresh is not answered with what was there */
  waiting[p] = false; inbox[p] = 0
}

/* --- lib/joining.lua: follow, enter. `send` tells whether a message is to be sent, for `mine` ------------------------- */
inline follow(p, serial, is_detached) {
  printf("TELL producer %d is in flight %d, order %d, send %d\n", p, token, flight_order, send);
  if :: is_detached -> detached[p] = (detached[p] > serial -> detached[p] : serial)
     :: else -> waiters[p] = (waiters[p] > serial -> waiters[p] : serial) fi;
  joined[p] = joined[p] | BIT(token); mine = token;
  if :: refresh -> not_before[p] = flight_order :: else fi
}

inline enter(p, serial, is_detached) {
  if
  :: state != NO_FLIGHT && flight_generation == generation -> send = is_detached && !published
  :: else ->
    if :: state == RUNNING && flight_generation == BLANK -> rightful[0] = 0; rightful[1] = 0 :: else fi;
    HOLDS(2, tokens_drawn < TOKENS); tokens_drawn++; next_order(); opened[tokens_drawn] = order;
    open_flight(tokens_drawn, order);
    send = true
  fi;
  follow(p, serial, is_detached)
}

inline join(p, serial, is_detached) {
  asked[p] = epoch; joined[p] = 0; not_before[p] = 0; inbox[p] = 0; send = false;
  if
  :: IS_CURRENT && !refresh -> answer(p, entry)
  :: else -> waiting[p] = !is_detached; owed[p] = is_detached; enter(p, serial, is_detached)
  fi
}

/* --- look.lua, where it has something to say; what it would merely renew is not modelled ------------------------------ */
#define KEPT(p, t) ((joined[p] & BIT(t)) && outcomes[t])
#define HAS_OUTCOME(p) (KEPT(p, 1) || KEPT(p, 2) || KEPT(p, 3) || KEPT(p, 4) || KEPT(p, 5) || KEPT(p, 6) || KEPT(p, 7))
#define HAS_ENTRY(p) (IS_CURRENT && entry >= not_before[p])
#define IS_JOINED(p) (state != NO_FLIGHT && (joined[p] & BIT(token)))
#define IS_QUIET (message[1] != READY && message[2] != READY && message[3] != READY && message[4] != READY && \
  message[5] != READY && message[6] != READY && !working[0] && !working[1])
#define SOMETHING_TO_SEE(p) (HAS_OUTCOME(p) || HAS_ENTRY(p) || !IS_JOINED(p) || !waiters[p] || \
  (state == RUNNING && !lease) || (state == QUEUED && (IS_QUIET || probes > 0)))

inline look(p, serial) {
  printf("TELL look(producer %d)\n", p);
  send = false;
  if
  :: HAS_OUTCOME(p) ->
    k = 1; do :: k <= TOKENS && !KEPT(p, k) -> k++ :: else -> break od;
    answer(p, outcomes[k])
  :: else ->
    if
    :: HAS_ENTRY(p) -> answer(p, entry)
    :: else ->
      if
      :: state == NO_FLIGHT || !(IS_JOINED(p) || flight_generation == generation) -> enter(p, serial, false)
      :: else ->
        if
        :: state == RUNNING && !lease -> state = QUEUED; holder = 0; published = false; send = true
        :: state == QUEUED && IS_QUIET -> HOLDS(2, resent < RESENDS); resent++; send = true
        :: state == QUEUED && !IS_QUIET && probes > 0 -> probes--; send = true
        :: LIVE || (state == QUEUED && !IS_QUIET) -> skip
        fi;
        follow(p, serial, false)
      fi
    fi
  fi
}

/* --- published.lua, leave.lua ----------------------------------------------------------------------------------------- */
inline published_(its_token) {
  printf("TELL published(flight %d); the flight is %d\n", its_token, token);
#ifdef WITHOUT_TOKEN_IN_PUBLISHED
  if :: state != NO_FLIGHT -> published = true :: else fi
#else
  if :: state != NO_FLIGHT && token == its_token -> published = true :: else fi
#endif
}

#ifdef WITHOUT_SERIAL_IN_LEAVE
#define UNDOES(stands, serial) (stands > 0)
#else
#define UNDOES(stands, serial) (stands > 0 && stands <= serial)
#endif

inline leave(p, serial, is_detached) {
  printf("TELL leave(producer %d, serial %d)\n", p, serial);
  ok = false;
  if
  :: is_detached && UNDOES(detached[p], serial) -> detached[p] = 0; ok = true
  :: !is_detached && UNDOES(waiters[p], serial) -> waiters[p] = 0; ok = true
  :: else
  fi;
  if
  :: ok && !IS_WANTED && !LIVE -> leave_end_marks(); delete_flight(); rightful[0] = 0; rightful[1] = 0
  :: else
  fi
}

/* --- the broker's side of sending and acking -------------------------------------------------------------------------- */
#define IS_FREE(id) (message[id] == GONE && working[0] != (id) && working[1] != (id) && copying[0] != (id) && \
  copying[1] != (id) && copy != (id))

/* `sent` is its id: a free one, which nothing can mistake for an earlier message's. */
inline send_message(its_token, number, is_due) {
  sent = 1; do :: sent <= MESSAGES && !IS_FREE(sent) -> sent++ :: else -> break od;
  HOLDS(9, sent <= MESSAGES);
  if
  :: printf("TELL message %d is sent for flight %d, number %d\n", sent, its_token, number);
     message[sent] = READY; message_token[sent] = its_token; message_number[sent] = number; message_due[sent] = is_due
  :: lost_messages > 0 -> lost_messages--; printf("TELL a message for flight %d is lost\n", its_token)
  fi
}

inline ack(id) {
  if
  :: message[id] == UNACKED -> message[id] = GONE; message_token[id] = 0; message_number[id] = 0; message_due[id] = false
  :: else
  fi
}

/* --- begin.lua -------------------------------------------------------------------------------------------------------- */
#define SETTLED 0
#define RUN 1
#define HELD 2
#define RESEND 4

#ifdef WITHOUT_END_MARK
#define HAS_ENDED(t) false
#else
#define HAS_ENDED(t) (ends & BIT(t))
#endif
#ifdef WITHOUT_SECOND_LOOK
#define IS_DONE(t) false
#else
#ifdef WITHOUT_ORDER_IN_SECOND_LOOK
#define IS_DONE(t) IS_CURRENT
#else
#define IS_DONE(t) (IS_CURRENT && entry >= opened[t])
#endif
#endif
#define IS_OWED (owed[0] || owed[1] || owed[2] || waiting[0] || waiting[1] || waiting[2])

inline begin(i, its_token, id, number) {
  if
  :: HAS_ENDED(its_token) -> code = SETTLED
  :: else ->
    if
    :: IS_DONE(its_token) ->
      code = SETTLED;
      if
      :: state == QUEUED && flight_generation == generation && flight_order <= entry -> push(entry); delete_flight()
      :: else
      fi
    :: else ->
      if
      :: LIVE && HAS_COPY_OUT(id, number) -> code = SETTLED
      :: LIVE && !HAS_COPY_OUT(id, number) -> code = HELD
      :: else ->
        code = RUN;
        if
        :: state != NO_FLIGHT && !IS_WANTED ->
          if :: TOKENS_OF & BIT(its_token) -> code = SETTLED :: else fi;
          leave_end_marks(); delete_flight()
        :: else
        fi;
        if
        :: code == RUN ->
          if
          :: state == NO_FLIGHT ->
            HOLDS(8, disturbed || IS_OWED);             /* else it is computed for nobody */
            open_flight(its_token, opened[its_token]); anonymous = true
          :: else
          fi;
          next_order(); state = RUNNING; holder = order; lease = true; published = true;
#ifndef WITHOUT_GENERATION_STAMP
          flight_generation = generation;
#endif
          HOLDS(1, rightful[1 - i] == 0 || rightful_generation[1 - i] != generation);
          computed[order] = epoch; rightful[i] = order; rightful_generation[i] = generation
        :: else
        fi
      fi
    fi
  fi
}

/* --- copied.lua, renew.lua, give_up.lua ------------------------------------------------------------------------------- */
inline copied(noted_for, id, number, sent_for) {
  printf("TELL copied(flight %d, message %d, number %d); the flight is %d, known number %d\n", noted_for, id, number, token, copies);
  if
#ifdef WITHOUT_TOKEN_IN_COPIED
  :: state != NO_FLIGHT &&
#else
  :: state != NO_FLIGHT && token == noted_for &&
#endif
#ifndef WITHOUT_OWN_TOKEN_IN_COPIED
     (TOKENS_OF & BIT(sent_for)) &&
#endif
#ifdef WITHOUT_COPY_NUMBER
     true
#else
     number > copies
#endif
     -> copy = id; copies = number
  :: else
  fi
}

inline give_up(computation) {
  printf("TELL computation %d's process dies; give_up\n", computation);
  if
#ifdef WITHOUT_HOLDER_IN_GIVE_UP
  :: state != NO_FLIGHT
#else
  :: state != NO_FLIGHT && holder == computation
#endif
     -> state = QUEUED; holder = 0; lease = false
  :: else
  fi
}

/* --- finish.lua ------------------------------------------------------------------------------------------------------- */
#ifdef WITHOUT_GENERATION_IN_FINISH
#define SAME_GENERATION(then) true
#else
#define SAME_GENERATION(then) (generation == (then))
#endif
#ifdef WITHOUT_INVALIDATION_MARK
#define AFTER_INVALIDATION(computation) true
#else
#define AFTER_INVALIDATION(computation) ((computation) >= invalidated)
#endif
#ifdef WITHOUT_BEGIN_AFTER_OPENING
#define AFTER_OPENING(computation) true
#else
#define AFTER_OPENING(computation) ((computation) >= flight_order)
#endif
#ifdef WITHOUT_HOLDER_IN_FINISH
#define IS_HOLDER(computation, taken) (state != NO_FLIGHT && token == (taken))
#else
#define IS_HOLDER(computation, taken) (state != NO_FLIGHT && holder == (computation))
#endif

/* A failure's entry lives for failure_expiry_s, 5 s by default: a look that comes later, up to a lease, finds none. */
#ifdef WITHOUT_KEPT_OUTCOME
#define ENTRY_STAYS(computation) (!failed[computation])
#else
#define ENTRY_STAYS(computation) true
#endif

/* A look by each waiter that joined would now find this outcome, should its push be lost. */
#define CAN_READ(p, computation) (!(waiters[p] && waiting[p] && (joined[p] & TOKENS_OF)) || inbox[p] == (computation) || \
  (joined[p] & TOKENS_OF & told) || (ENTRY_STAYS(computation) && IS_CURRENT && entry == (computation) && entry >= not_before[p]))
hidden byte told;

/* Detached submissions are no longer owed an outcome that they may have. */
inline satisfy(computation) {
  k = 0;
  do
  :: k < PRODUCERS ->
    if :: owed[k] && computed[computation] >= asked[k] && computation >= not_before[k] -> owed[k] = false :: else fi; k++
  :: else -> break
  od
}

inline finish(i, computation, then, taken, id, number, success, keep) {
  printf("TELL worker %d, message %d: finish(computation %d, success %d, keep %d); flight %d, state %d, holder %d\n", i, id,
    computation, success, keep, token, state, holder);
  holds = IS_HOLDER(computation, taken);
  valid = SAME_GENERATION(then) && AFTER_INVALIDATION(computation) && !(holds && flight_generation != then
#ifdef WITHOUT_GENERATION_IN_FINISH
    && flight_generation == BLANK
#endif
    );
  counts = success && valid && (state == NO_FLIGHT || AFTER_OPENING(computation));
  if
  :: counts && state == NO_FLIGHT ->
    code = SETTLED;
    if
    :: IS_CURRENT && !failed[entry] -> skip
    :: else -> entry = computation; entry_generation = then; satisfy(computation)
    fi
  :: (counts && state != NO_FLIGHT) || (!counts && holds) ->
    code = SETTLED; told = 0;
    if
    :: !success && rightful[1 - i] != 0 && state == RUNNING && holder == rightful[1 - i] -> skip   /* not its to end */
    :: else -> rightful[0] = 0; rightful[1] = 0
    fi;
    kept = valid && keep && (success || !(IS_CURRENT && !failed[entry]));
    if :: kept -> entry = computation; entry_generation = then :: else -> keep_outcome(computation); told = TOKENS_OF fi;
    if :: !kept || !LONG_LIVED -> leave_end_marks() :: else fi;
    push(computation);
    satisfy(computation);
    HOLDS(6, CAN_READ(0, computation) && CAN_READ(1, computation) && CAN_READ(2, computation));
    delete_flight()
  :: !counts && !holds && state == NO_FLIGHT -> code = ((IS_CURRENT || (ends & BIT(taken))) -> SETTLED : RESEND)
  :: !counts && !holds && LIVE -> code = (HAS_COPY_OUT(id, number) -> SETTLED : HELD)
  :: !counts && !holds && !LIVE && state != NO_FLIGHT -> code = ((state == RUNNING || !published) -> RESEND : SETTLED)
  fi
}

/* --- a producer ------------------------------------------------------------------------------------------------------- */
inline die(p) {
  printf("TELL producer %d dies\n", p);
  producer_deaths--; waiting[p] = false; inbox[p] = 0; send = false; mark = 0;
  waiters[p] = 0; owed[p] = owed[p] && accepted[p]
}
/* A dead waiter stops counting after three leases. When does not matter to those who live, so it is at once; but a
   flight is not ended by that: only a begin or a leave that meets it ends it. */

proctype Waiter(byte p; bool refresh) {
  bool send = false; byte mine = 0, mark = 0;
  atomic { join(p, 1, false) };
  do
  :: atomic { send && waiting[p] -> send_message(mine, 0, false); mark = mine; send = false }
  :: atomic { send && waiting[p] && leaves > 0 -> leaves--; send = false; waiting[p] = false; inbox[p] = 0 };
     atomic { leave(p, 1, false) }                             /* the publish was refused */
  :: atomic { producer_deaths > 0 && waiting[p] -> die(p) }; break
  :: atomic { mark != 0 -> published_(mark); mark = 0 }        /* rides with the next round trip, whenever that is */
  :: atomic { !send && waiting[p] && inbox[p] != 0 -> answer(p, inbox[p]) }
  :: atomic { !send && waiting[p] && leaves > 0 -> leaves--; waiting[p] = false; inbox[p] = 0 };
     atomic { leave(p, 1, false) }
  :: atomic { !send && waiting[p] && inbox[p] == 0 && SOMETHING_TO_SEE(p) -> look(p, 1) }
  :: atomic { !waiting[p] -> send = false; mark = 0; mine = 0 }; break
  od
}

/* Submits and goes away: nobody waits, nobody looks. */
proctype Submitter(byte p; bool refresh) {
  bool send = false; byte mine = 0, mark = 0;
  atomic { join(p, 1, true) };
  if
  :: atomic { send -> send_message(mine, 0, false); accepted[p] = true; send = false };
     if
     :: atomic { published_(mine); mine = 0 }
     :: atomic { mine = 0 }
     fi
  :: atomic { !send -> accepted[p] = true; mine = 0 }
  :: atomic { send && producer_deaths > 0 -> die(p); mine = 0 }
  :: atomic { send && leaves > 0 -> leaves--; send = false; owed[p] = false }; atomic { leave(p, 1, true); mine = 0 }
  fi
}

/* Submits, cancels, and submits again: the leave of the first may come after the join of the second. */
proctype LateLeave(byte p; byte serial) { atomic { leave(p, serial, true) } }

proctype Returner(byte p) {
  bool send = false, refresh = false; byte mine = 0;
  atomic { join(p, 1, true) };
  do
  :: atomic { send -> send_message(mine, 0, false); send = false }; atomic { published_(mine) }
  :: atomic { !send -> owed[p] = false; run LateLeave(p, 1) }; break
  od;
  atomic { join(p, 2, true) };
  if :: atomic { send -> send_message(mine, 0, false); send = false } :: atomic { !send -> skip } fi;
  atomic { accepted[p] = true; mine = 0 }
}

/* --- a worker --------------------------------------------------------------------------------------------------------- */
#define CAN_TAKE(id) (message[id] == READY && (!message_due[id] || !LIVE || due_early > 0))

/* Acked; or the worker died before that, and the broker will deliver again. */
inline let_go(i) {
  if :: ack(working[i]) :: worker_deaths > 0 -> worker_deaths--; printf("TELL worker %d dies\n", i) fi;
  working[i] = 0; copying[i] = 0; computing[i] = 0; its_token = 0; number = 0; then = 0; taken = 0
}
inline die_working(i) {
  printf("TELL worker %d dies\n", i);
  worker_deaths--; rightful[i] = 0; working[i] = 0; copying[i] = 0; computing[i] = 0;
  its_token = 0; number = 0; then = 0; taken = 0
}

/* After begin or finish said HELD: a copy, due when that lease ends, is published first, noted then. */
#ifdef WITHOUT_ACK_RULE
#define send_copy(i) let_go(i)
#else
inline send_copy(i) {
  taken = token;
  send_message(its_token, number + 1, true);
  copying[i] = sent;
  copies_sent()
}
#endif

/* Where no worker died, no two copies of one number are sent for one flight. */
byte numbers_sent = 0;        /* of the flight `copied_for`, as a set */
byte copied_for = 0;
inline copies_sent() {
#ifdef COUNT_COPIES
  if :: copied_for != token -> copied_for = token; numbers_sent = 0 :: else fi;
  HOLDS(7, worker_deaths < WORKER_DEATHS || !(numbers_sent & BIT(number)));
  numbers_sent = numbers_sent | BIT(number)
#else
  skip
#endif
}

proctype Worker(byte i) {
  byte its_token = 0, number = 0;
  byte then = 0, taken = 0;     /* generation and token that begin read */
end:
  do
  /* Take and begin are one step: a death between the two leaves the message as if it had not been taken. */
  :: atomic {
       !working[i] && (CAN_TAKE(1) || CAN_TAKE(2) || CAN_TAKE(3) || CAN_TAKE(4) || CAN_TAKE(5) || CAN_TAKE(6)) ->
       if
       :: CAN_TAKE(1) -> working[i] = 1 :: CAN_TAKE(2) -> working[i] = 2 :: CAN_TAKE(3) -> working[i] = 3
       :: CAN_TAKE(4) -> working[i] = 4 :: CAN_TAKE(5) -> working[i] = 5 :: CAN_TAKE(6) -> working[i] = 6
       fi;
       if :: message_due[working[i]] && LIVE -> due_early-- :: else fi;
       message[working[i]] = UNACKED; message_due[working[i]] = false;
       its_token = message_token[working[i]]; number = message_number[working[i]];
       begin(i, its_token, working[i], number);
       printf("TELL worker %d: begin(flight %d, message %d, number %d) = %d; flight %d, holder %d\n", i, its_token, working[i],
         number, code, token, holder);
       if
       :: code == SETTLED -> let_go(i)
       :: code == HELD ->
         if
         :: send_copy(i)
         :: worker_deaths > 0 -> die_working(i)
         fi
       :: code == RUN -> computing[i] = order; then = generation; taken = token
       fi
     }
  :: atomic { copying[i] != 0 -> copied(taken, copying[i], number + 1, its_token); let_go(i) }
  :: atomic { copying[i] != 0 && worker_deaths > 0 -> die_working(i) }
  :: atomic {
       computing[i] != 0 ->
       if
       :: finish(i, computing[i], then, taken, working[i], number, true, true)
       :: failures > 0 -> failures--; failed[computing[i]] = true;
          if
          :: finish(i, computing[i], then, taken, working[i], number, false, true)
          :: finish(i, computing[i], then, taken, working[i], number, false, false)
          fi
       fi;
       rightful[i] = 0; computing[i] = 0;
       if
       :: code == SETTLED -> let_go(i)
       :: code == HELD ->
         if
         :: send_copy(i)
         :: worker_deaths > 0 -> die_working(i)
         fi
       :: code == RESEND ->
         if
         :: send_message(its_token, number + 1, false); let_go(i)
         :: worker_deaths > 0 -> die_working(i)
         fi
       fi
     }
  /* The child dies; its parent gives up, and rejects. A parent that dies in between leaves the record to the broker. */
  :: atomic {
       computing[i] != 0 && child_deaths > 0 ->
       child_deaths--; give_up(computing[i]); rightful[i] = 0;
       if :: message[working[i]] == UNACKED -> message[working[i]] = READY :: else fi;
       working[i] = 0; computing[i] = 0; its_token = 0; number = 0; then = 0; taken = 0
     }
  :: atomic { computing[i] != 0 && worker_deaths > 0 -> die_working(i) }
  /* renew.lua, where it changes something: a holder that was stopped goes on before anybody took over. */
  :: atomic {
       computing[i] != 0 && state == RUNNING && holder == computing[i] && !lease -> lease = true; printf("TELL holder %d renews\n", holder); rightful[i] = computing[i];
       rightful_generation[i] = then
     }
  od
}

/* --- everything else that happens ------------------------------------------------------------------------------------- */
#define IS_IN_HAND(id) (working[0] == (id) || working[1] == (id))
#define CAN_RESTORE(id) (message[id] == UNACKED && (redeliveries > 0 || !IS_IN_HAND(id)))
inline restore(id) {
  printf("TELL message %d is delivered again\n", id);
  if :: IS_IN_HAND(id) -> redeliveries-- :: else fi;
  message[id] = READY
}

proctype World() {
end:
  do
  :: atomic { LIVE && holder != computing[0] && holder != computing[1] -> lease = false;
       printf("TELL the lease of dead holder %d lapses\n", holder) }   /* its holder is dead */
  :: atomic {
       stops > 0 && LIVE -> stops--; lease = false; printf("TELL holder %d stops; its lease lapses\n", holder);
       if :: rightful[0] == holder -> rightful[0] = 0 :: rightful[1] == holder -> rightful[1] = 0 :: else fi
     }
  :: atomic { CAN_RESTORE(1) -> restore(1) }                   /* the visibility timeout */
  :: atomic { CAN_RESTORE(2) -> restore(2) }
  :: atomic { CAN_RESTORE(3) -> restore(3) }
  :: atomic { CAN_RESTORE(4) -> restore(4) }
  :: atomic { CAN_RESTORE(5) -> restore(5) }
  :: atomic { CAN_RESTORE(6) -> restore(6) }
  :: atomic { purges > 0 -> purges--; next_order(); generation++; epoch++; disturbed = true; printf("TELL purge\n") }
  :: atomic {                                                  /* invalidate.lua */
       invalidations > 0 -> invalidations--; printf("TELL invalidate\n"); next_order(); invalidated = order; epoch++; disturbed = true;
#ifndef WITHOUT_BLANK_GENERATION
       if :: state == RUNNING -> flight_generation = BLANK :: else fi;
#endif
       entry = 0; entry_generation = 0
     }
  :: atomic {
       evictions > 0 && state != NO_FLIGHT -> evictions--; disturbed = true; printf("TELL the flight is evicted\n"); delete_flight(); rightful[0] = 0; rightful[1] = 0
     }
  :: atomic { expiries > 0 && entry != 0 -> expiries--; printf("TELL the entry expires\n"); disturbed = true; entry = 0; entry_generation = 0 }
  od
}

#ifdef LOSSES_ARE_LOST
#define MAY_BE_LOST (lost_messages < LOST_MESSAGES)
#else
#define MAY_BE_LOST false
#endif

/* When nothing can move any more. Every step but those that only settle raises a bounded counter, so that no run goes on
   for ever: what never ends in a bad state never hangs. */
proctype Judge() {
  timeout ->
  atomic {
    HOLDS(2, !waiting[0] && !waiting[1] && !waiting[2]);
    HOLDS(3, MAY_BE_LOST || (!(accepted[0] && owed[0]) && !(accepted[1] && owed[1]) && !(accepted[2] && owed[2])))
  }
}
