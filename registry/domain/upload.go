package domain

// Upload is how far an upload has come: bytes that come in pieces and have no digest yet.
type Upload struct {
	// ID is random, so that whoever was not told it cannot guess it.
	ID string
	// Size is how many bytes have come.
	Size int64
	// State is what the blob store needs beside ID and Size to go on with the upload, in any process. Only the store
	// reads it.
	State []byte
	// Interrupted says that the upload's last writer was not seen to end: it may be at work still.
	Interrupted bool
}
