package audit_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
)

// treeOf stores a tree of leaves that come in pieces of random sizes, as the sequencer's batches do.
func treeOf(t *testing.T, size int64) *testLog {
	t.Helper()
	g := NewWithT(t)
	l := &testLog{tiles: map[tlog.Tile][]byte{}}
	random := rand.New(rand.NewPCG(1, uint64(size)))
	for have := int64(0); have < size; {
		n := min(1+random.Int64N(700), size-have)
		var leaves []tlog.Hash
		for i := range n {
			leaves = append(leaves, leaf(have+i))
		}
		frontier, err := l.source(audit.Frontier(have))
		g.Expect(err).NotTo(HaveOccurred())
		changed, err := audit.Extend(have, frontier, leaves)
		g.Expect(err).NotTo(HaveOccurred())
		for _, tile := range changed {
			l.tiles[tlog.Tile{L: tile.Level, N: tile.N}] = tile.Hashes
		}
		have += n
	}
	return l
}

func leaf(n int64) tlog.Hash { return audit.LeafHash(fmt.Appendf(nil, "leaf %d", n)) }

// reference stores every hash of the tree, as tlog does without tiles.
func reference(t *testing.T, size int64) tlog.HashReaderFunc {
	t.Helper()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (hashes []tlog.Hash, err error) {
		for _, i := range indexes {
			hashes = append(hashes, stored[i])
		}
		return hashes, nil
	})
	for n := range size {
		hashes, err := tlog.StoredHashesForRecordHash(n, leaf(n), reader)
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		stored = append(stored, hashes...)
	}
	return reader
}

func TestTheTreeIsThatOfRFC6962(t *testing.T) {
	const most = 66_000
	want := reference(t, most)
	for _, size := range []int64{0, 1, 2, 255, 256, 257, 511, 512, 700, 65_535, 65_536, 65_537, most} {
		g := NewWithT(t)
		tree, err := audit.OpenTree(size, treeOf(t, size).source)
		g.Expect(err).NotTo(HaveOccurred())
		for _, at := range []int64{0, 1, 255, 256, 257, 600, 65_536, size} {
			if at > size {
				continue
			}
			root, err := tlog.TreeHash(at, want)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(tree.Root(at)).To(Equal(root), "%d of %d", at, size)
			older, newer := audit.Checkpoint{Size: at, Root: root}, audit.Checkpoint{Size: size}
			newer.Root, err = tree.Root(size)
			g.Expect(err).NotTo(HaveOccurred())
			consistency, err := tree.Consistency(at, size)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(audit.VerifyConsistency(older, newer, consistency)).To(Succeed())
			for _, index := range []int64{0, 255, 256, at - 1} {
				if index < 0 || index >= at {
					continue
				}
				hash, inclusion, err := tree.Inclusion(index, at)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(hash).To(Equal(leaf(index)))
				g.Expect(audit.VerifyInclusion(older, index, hash, inclusion)).To(Succeed())
			}
		}
	}
}

func TestATileThatDoesNotBelongToTheTreeGivesNoProof(t *testing.T) {
	const size = 66_000
	for _, tile := range []tlog.Tile{{L: 0, N: 0}, {L: 0, N: 1}, {L: 1, N: 0}} {
		g := NewWithT(t)
		l := treeOf(t, size)
		l.tiles[tile] = append([]byte{}, l.tiles[tile]...)
		l.tiles[tile][70] ^= 1
		tree, err := audit.OpenTree(size, l.source)
		g.Expect(err).NotTo(HaveOccurred())
		if tile == (tlog.Tile{N: 1}) {
			_, err = tree.Root(400)
			g.Expect(err).To(MatchError(audit.ErrTampered))
		}
		_, _, err = tree.Inclusion(300, size)
		if tile == (tlog.Tile{}) {
			g.Expect(err).NotTo(HaveOccurred())
			_, _, err = tree.Inclusion(2, size)
		}
		g.Expect(err).To(MatchError(audit.ErrTampered))
		delete(l.tiles, tile)
		tree, err = audit.OpenTree(size, l.source)
		g.Expect(err).NotTo(HaveOccurred())
		_, err = tree.Leaves(0, 300)
		g.Expect(err).To(MatchError(audit.ErrTampered))
		hashes, err := tree.UnprovenLeaves(254, 258)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(hashes[0] == nil).To(Equal(tile == tlog.Tile{}))
		g.Expect(hashes[3] == nil).To(Equal(tile == tlog.Tile{N: 1}))
	}
	g := NewWithT(t)
	_, err := audit.Extend(size, make([][]byte, len(audit.Frontier(size))), []tlog.Hash{{}})
	g.Expect(err).To(MatchError(audit.ErrTampered))
	_, err = audit.OpenTree(size, func(tiles []tlog.Tile) ([][]byte, error) { return make([][]byte, len(tiles)), nil })
	g.Expect(err).To(MatchError(audit.ErrTampered))
	away := errors.New("the database is away")
	_, err = audit.OpenTree(size, func([]tlog.Tile) ([][]byte, error) { return nil, away })
	g.Expect(err).To(And(MatchError(away), Not(MatchError(audit.ErrTampered))))
}

func TestACheckpointIsItsText(t *testing.T) {
	g := NewWithT(t)
	checkpoint := audit.Checkpoint{Origin: "tidelock/0123", Size: 12, Root: tlog.Hash{1}}
	g.Expect(checkpoint.Text()).To(Equal("tidelock/0123\n12\nAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"))
	for _, more := range []string{"", "an extension\n", "\n— tidelock AAAA\n"} {
		g.Expect(audit.ParseCheckpoint(checkpoint.Text() + more)).To(Equal(checkpoint))
	}
	for _, text := range []string{"", "o\n1\n", "\n1\n" + checkpoint.Root.String() + "\n", "o\n-1\n" + checkpoint.Root.String(), "o\n01\n" + checkpoint.Root.String(), "o\n1\nAQ==\n",
		"o\n1\n" + strings.Replace(checkpoint.Root.String(), "A=", "B=", 1)} {
		_, err := audit.ParseCheckpoint(text)
		g.Expect(err).To(HaveOccurred(), text)
	}
}

func TestCheckpointsAreConsistentOrNot(t *testing.T) {
	g := NewWithT(t)
	tree, err := audit.OpenTree(300, treeOf(t, 300).source)
	g.Expect(err).NotTo(HaveOccurred())
	at := func(size int64) audit.Checkpoint {
		root, err := tree.Root(size)
		g.Expect(err).NotTo(HaveOccurred())
		return audit.Checkpoint{Origin: "o", Size: size, Root: root}
	}
	proof, err := tree.Consistency(100, 300)
	g.Expect(err).NotTo(HaveOccurred())
	other := at(100)
	other.Root[0] ^= 1
	foreign := at(100)
	foreign.Origin = "p"
	g.Expect(audit.VerifyConsistency(at(100), at(300), proof)).To(Succeed())
	g.Expect(audit.VerifyConsistency(at(0), at(300), nil)).To(Succeed())
	g.Expect(audit.VerifyConsistency(at(300), at(300), nil)).To(Succeed())
	g.Expect(audit.VerifyConsistency(other, at(300), proof)).To(MatchError(HavePrefix("the log of 300 entries does not begin with that of 100")))
	g.Expect(audit.VerifyConsistency(at(100), at(300), proof[1:])).NotTo(Succeed())
	g.Expect(audit.VerifyConsistency(other, at(100), nil)).To(MatchError("the log has had two roots at 100 entries"))
	g.Expect(audit.VerifyConsistency(at(300), at(100), proof)).To(MatchError("the log has shrunk from 300 entries to 100"))
	g.Expect(audit.VerifyConsistency(foreign, at(300), proof)).To(MatchError("the checkpoints are of two logs, p and o"))
	g.Expect(audit.VerifyInclusion(at(100), 100, leaf(100), nil)).To(MatchError("a log of 100 entries has none with the index 100"))
}

// All keys of a file sign, so that old and new public keys verify while they are rotated.
func TestKeysAreRotated(t *testing.T) {
	g := NewWithT(t)
	path := filepath.Join(t.TempDir(), "audit.key")
	g.Expect(audit.EnsureKeyFile(path)).To(Succeed())
	info, err := os.Stat(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)))
	before, err := os.ReadFile(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(audit.EnsureKeyFile(path)).To(Succeed())
	g.Expect(os.ReadFile(path)).To(Equal(before), "a key that is there stays")
	g.Expect(audit.WriteKeyFile(path, "another")).NotTo(Succeed())
	g.Expect(os.ReadFile(path)).To(Equal(before))

	checkpoint := audit.Checkpoint{Origin: "o", Size: 1}
	var public []string
	verifies := func() (list []bool) {
		t.Helper()
		keys, err := audit.KeyFile(path).Keys()
		g.Expect(err).NotTo(HaveOccurred())
		signed, err := keys.Sign(checkpoint)
		g.Expect(err).NotTo(HaveOccurred())
		for _, key := range public {
			known, err := audit.ParsePublicKeys([]byte("# a comment\n\n" + key + "\n" + key + "\n"))
			g.Expect(err).NotTo(HaveOccurred())
			got, by, err := audit.OpenCheckpoint(signed, known)
			if list = append(list, err == nil); err == nil {
				g.Expect(got).To(Equal(checkpoint))
				g.Expect(by).To(HaveLen(1))
			}
		}
		return list
	}
	old, err := audit.KeyFile(path).Keys()
	g.Expect(err).NotTo(HaveOccurred())
	private, next, err := audit.GenerateKey("next")
	g.Expect(err).NotTo(HaveOccurred())
	public = append(old.Public(), next)
	g.Expect(verifies()).To(Equal([]bool{true, false}))
	g.Expect(os.WriteFile(path, append(before, private+"\n"...), 0o600)).To(Succeed())
	g.Expect(verifies()).To(Equal([]bool{true, true}))
	g.Expect(os.WriteFile(path, []byte(private+"\n"), 0o600)).To(Succeed())
	g.Expect(verifies()).To(Equal([]bool{false, true}))
}

func TestErrorsOfKeysDoNotTellThem(t *testing.T) {
	g := NewWithT(t)
	path := filepath.Join(t.TempDir(), "audit.key")
	private, public, err := audit.GenerateKey("x")
	g.Expect(err).NotTo(HaveOccurred())
	for content, message := range map[string]string{
		"":                             "there is no key in it; tidelock audit keygen makes one",
		"\nsecret":                     "line 2: this is not a private key of tidelock audit keygen",
		private[:len(private)-4]:       "line 1: this is not a private key of tidelock audit keygen",
		public:                         "line 1: this is not a private key of tidelock audit keygen",
		private + "\n# x\n" + "secret": "line 3: this is not a private key of tidelock audit keygen",
	} {
		g.Expect(os.WriteFile(path, []byte(content), 0o600)).To(Succeed())
		_, err := audit.KeyFile(path).Keys()
		g.Expect(err).To(MatchError("keys of the audit log: " + path + ": " + message))
	}
	_, err = audit.KeyFile(path + "x").Keys()
	g.Expect(err).To(MatchError(os.ErrNotExist))
	_, err = audit.ParsePublicKeys([]byte("\n" + private))
	g.Expect(err).To(MatchError("line 2: this is not a public key of tidelock audit keygen"))
	_, err = audit.ParsePublicKeys(nil)
	g.Expect(err).To(MatchError("there is no public key"))
	for _, name := range []string{"", "two words", "a+b"} {
		_, _, err := audit.GenerateKey(name)
		g.Expect(err).To(MatchError(fmt.Sprintf("%q cannot be the name of a key: one word without \"+\" is needed", name)))
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add(audit.Checkpoint{Origin: "o", Size: 1}.Text())
	f.Add("o\n1\nAAAA\n\n— x AAAA\n")
	f.Fuzz(func(t *testing.T, text string) {
		checkpoint, err := audit.ParseCheckpoint(text)
		if err != nil {
			return
		}
		if !strings.HasPrefix(text+"\n", checkpoint.Text()) {
			t.Errorf("%q is not the beginning of %q", checkpoint.Text(), text)
		}
		if again, err := audit.ParseCheckpoint(checkpoint.Text()); err != nil || again != checkpoint {
			t.Errorf("%q is read as %v, %v", checkpoint.Text(), again, err)
		}
	})
}

func FuzzKeys(f *testing.F) {
	private, public, err := audit.GenerateKey("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(private))
	f.Add([]byte(public))
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, err := audit.ParseKeys(content)
		if err != nil {
			return
		}
		known, err := audit.ParsePublicKeys([]byte(strings.Join(keys.Public(), "\n")))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := keys.Sign(audit.Checkpoint{Origin: "o"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(signed, known); err != nil {
			t.Error(err)
		}
	})
}
