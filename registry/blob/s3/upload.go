package s3

import (
	"context"
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/domain"
)

const (
	// minPart is the least that S3 takes for a part that is not the last, in bytes.
	minPart = 5 << 20
	// maxPart is the largest part that is sent, in bytes.
	maxPart = 256 << 20
	// maxParts is how many parts an object can have.
	maxParts = 10_000
	// growth is after how many parts the parts double.
	growth = 1_000
)

// partSize is how many bytes the part of a number has, if so many come. 10,000 parts have 1.2 TiB.
func partSize(number int) int {
	return min(minPart<<((number-1)/growth), maxPart)
}

// state is what stands in domain.Upload.State: a length in four bytes, that many bytes of JSON, and the tail.
type state struct {
	Algorithm digest.Algorithm `json:"algorithm"`
	// Hash is the hash of all bytes, as encoding.BinaryMarshaler writes it.
	Hash []byte `json:"hash,omitempty"`
	// Object and Multipart name the object and its multipart upload; empty as long as there are no parts.
	Object    string `json:"object,omitempty"`
	Multipart string `json:"multipart,omitempty"`
	Parts     []part `json:"parts,omitempty"`
	// Next is the number of the next part. No other writer has ever used it.
	Next int `json:"next"`

	// tail is what came behind the last part, and is too small for one.
	tail []byte
}

type part struct {
	Number int    `json:"n"`
	ETag   string `json:"e"`
}

func (s state) encode() ([]byte, error) {
	header, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	text := make([]byte, 0, 4+len(header)+len(s.tail))
	text = binary.BigEndian.AppendUint32(text, uint32(len(header))) //nolint:gosec // far below 4 GiB
	return append(append(text, header...), s.tail...), nil
}

func decode(u domain.Upload) (s state, h hash.Hash, err error) {
	fail := func(err error) (state, hash.Hash, error) {
		return s, nil, fmt.Errorf("upload %s has no state of an S3 store: %w", u.ID, err)
	}
	if len(u.State) < 4 {
		return fail(io.ErrUnexpectedEOF)
	}
	length := int64(binary.BigEndian.Uint32(u.State))
	if length > int64(len(u.State)-4) {
		return fail(io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(u.State[4:4+length], &s); err != nil {
		return fail(err)
	}
	s.tail = u.State[4+length:]
	if !s.Algorithm.Available() {
		return fail(fmt.Errorf("algorithm %q is unknown", s.Algorithm))
	}
	h = s.Algorithm.Hash()
	if len(s.Hash) > 0 {
		if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.Hash); err != nil {
			return fail(err)
		}
	}
	return s, h, nil
}

// Begin implements blob.Store. Nothing is in S3 before the first part.
func (s *Store) Begin(id string, algorithm digest.Algorithm) domain.Upload {
	text, err := state{Algorithm: algorithm, Next: 1}.encode()
	if err != nil { // nothing in it can fail to encode
		panic(err)
	}
	return domain.Upload{ID: id, State: text}
}

// Append implements blob.Store. Bytes wait in memory until they are a part; what is too small for one is the tail, which
// stands in the upload's state.
func (s *Store) Append(ctx context.Context, u domain.Upload, r io.Reader, save func(domain.Upload) error) (domain.Upload, error) {
	st, h, err := decode(u)
	if err != nil {
		return u, err
	}
	a := &appender{Store: s, state: st, hash: h, good: u, save: save}
	if u.Interrupted && a.Multipart != "" {
		// Whoever had the upload before may be sending this part still. This number is his, the next is ours, and that
		// must be known to those after us before it is used.
		if a.good, err = a.skip(); err == nil {
			err = save(a.good)
		}
		if err != nil {
			return u, err
		}
	}
	for {
		ended, err := a.part(ctx, r)
		if ended || err != nil {
			return a.good, err
		}
		if err := save(a.good); err != nil {
			return a.good, err
		}
	}
}

// appender is a call of Append.
type appender struct {
	*Store
	state
	hash hash.Hash
	// good is the upload as far as its bytes are in parts, or in its tail.
	good domain.Upload
	save func(domain.Upload) error
}

// skip is the good state with another next number.
func (a *appender) skip() (domain.Upload, error) {
	st, _, err := decode(a.good)
	if err != nil {
		return a.good, err
	}
	st.Next++
	a.Next = st.Next
	u := a.good
	u.State, err = st.encode()
	return u, err
}

// part reads the next part and sends it, or keeps it as the tail if the reader ended before there was enough.
func (a *appender) part(ctx context.Context, r io.Reader) (ended bool, err error) {
	if a.Next > maxParts {
		return false, blob.ErrTooLarge
	}
	capacity := partSize(a.Next)
	if err := a.acquire(ctx, capacity); err != nil {
		return false, err
	}
	defer a.memory.Release(int64(capacity))
	b, err := newBuffer(capacity)
	if err != nil {
		return false, fmt.Errorf("memory for a part: %w", err)
	}
	defer b.free()
	b.size = copy(b.memory, a.tail)
	before := b.size
	readErr := a.fill(ctx, b, r)
	if !errors.Is(readErr, io.EOF) && ctx.Err() != nil {
		readErr = ctx.Err()
	}
	st := a.state
	if st.Hash, err = a.hash.(encoding.BinaryMarshaler).MarshalBinary(); err != nil {
		return false, err
	}
	if b.size < minPart {
		st.tail = b.memory[:b.size]
	} else if err := a.send(ctx, &st, b); err != nil {
		// Perhaps the part arrives after all, so its number is used up.
		good, skipErr := a.skip()
		a.good = good
		return false, errors.Join(err, skipErr)
	}
	u := domain.Upload{ID: a.good.ID, Size: a.good.Size + int64(b.size-before)}
	if u.State, err = st.encode(); err != nil {
		return false, err
	}
	st.tail = nil // it is in u, and there is no next part after it
	a.state, a.good = st, u
	if errors.Is(readErr, io.EOF) {
		return true, nil
	}
	return false, readErr
}

// fill reads until the buffer is full, which is no error, or the reader fails.
func (a *appender) fill(ctx context.Context, b *buffer, r io.Reader) error {
	const piece = 256 << 10
	for b.size < len(b.memory) {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(b.memory[b.size:min(b.size+piece, len(b.memory))])
		a.hash.Write(b.memory[b.size : b.size+n])
		b.size += n
		if err != nil {
			return err
		}
	}
	return nil
}

// send sends a part. The first one begins the multipart upload, which is recorded before it gets any bytes: whoever
// cancels the upload must know of it.
func (a *appender) send(ctx context.Context, st *state, b *buffer) error {
	// The bytes are here, whether the client is or not.
	ctx = context.WithoutCancel(ctx)
	if st.Multipart == "" {
		if err := a.beginMultipart(ctx, st); err != nil {
			return err
		}
	}
	sent, err := a.sendPart(ctx, *st, b, b.size)
	if err != nil {
		return err
	}
	st.Parts = append(slices.Clip(st.Parts), part{Number: st.Next, ETag: sent.ETag})
	st.Next++
	st.tail = nil
	return nil
}

func (a *appender) beginMultipart(ctx context.Context, st *state) error {
	object := blob.NewUploadID()
	short, cancel := a.within(ctx, 0)
	defer cancel()
	id, err := a.client.NewMultipartUpload(short, a.bucket, a.dataName(object), minio.PutObjectOptions{ContentType: contentType})
	if err != nil {
		return fmt.Errorf("beginning a multipart upload: %w", err)
	}
	st.Object, st.Multipart = object, id
	known, _, err := decode(a.good)
	if err == nil {
		known.Object, known.Multipart = object, id
		a.Object, a.Multipart = object, id
		a.good.State, err = known.encode()
	}
	if err == nil {
		err = a.save(a.good)
	}
	if err != nil {
		return errors.Join(err, a.abort(ctx, *st))
	}
	return nil
}

// sendPart sends a reader as the part with the state's next number.
func (s *Store) sendPart(ctx context.Context, st state, r io.Reader, size int) (minio.ObjectPart, error) {
	ctx, cancel := s.within(ctx, size)
	defer cancel()
	sent, err := s.client.PutObjectPart(ctx, s.bucket, s.dataName(st.Object), st.Multipart, st.Next, r, int64(size), minio.PutObjectPartOptions{})
	if isCode(err, minio.NoSuchUpload) {
		return sent, blob.ErrUnknown
	}
	if err != nil {
		return sent, fmt.Errorf("sending part %d: %w", st.Next, err)
	}
	return sent, nil
}

func (s *Store) abort(ctx context.Context, st state) error {
	ctx, cancel := s.within(ctx, 0)
	defer cancel()
	if err := s.client.AbortMultipartUpload(ctx, s.bucket, s.dataName(st.Object), st.Multipart); err != nil && !isCode(err, minio.NoSuchUpload) {
		return fmt.Errorf("aborting a multipart upload: %w", err)
	}
	return nil
}
