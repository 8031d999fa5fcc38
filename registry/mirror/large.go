package mirror

import "context"

const (
	// largeManifest is the size from which manifests take so much memory, many times their size, that maxLarge of a level are
	// worked on at once by all mirrors of a process.
	largeManifest = 256 << 10
	maxLarge      = 2
)

// level is what a manifest is in the copy of a tag. Each has large manifests of its own: who has one of a level waits for one
// of a later level only, so that nobody waits for ever.
type level int

const (
	levelImage level = iota
	levelSignature
	// levelReferrer is that of referrers, and of their referrers, levelChild that of the manifests of indexes, and of indexes
	// in indexes.
	levelReferrer
	levelChild = levelReferrer + maxDepth + 1
	levels     = levelChild + maxDepth + 2
)

// large are the large manifests of all levels that are worked on.
type large [levels]chan struct{}

func newLarge() (l large) {
	for i := range l {
		l[i] = make(chan struct{}, maxLarge)
	}
	return l
}

// room is the room that one manifest has, if it needs any.
type room struct {
	slots chan struct{}
	taken bool
}

// try takes the room if it is free.
func (r *room) try() bool {
	select {
	case r.slots <- struct{}{}:
		r.taken = true
	default:
	}
	return r.taken
}

// wait waits for the room.
func (r *room) wait(ctx context.Context) error {
	r.taken = take(ctx, r.slots)
	return ctx.Err()
}

func (r *room) leave() {
	if r.taken {
		r.taken = false
		<-r.slots
	}
}
