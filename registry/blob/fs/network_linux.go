package fs

import "golang.org/x/sys/unix"

// networkFilesystems are the file systems of statfs(2) that other machines can write to at the same time.
var networkFilesystems = map[int64]string{
	unix.NFS_SUPER_MAGIC:  "NFS",
	unix.SMB_SUPER_MAGIC:  "SMB",
	unix.SMB2_SUPER_MAGIC: "SMB",
	unix.CIFS_SUPER_MAGIC: "SMB",
	unix.CEPH_SUPER_MAGIC: "CephFS",
	unix.AFS_SUPER_MAGIC:  "AFS",
}

// networkFilesystem names the network file system that a path is on, or returns "" for any other.
func networkFilesystem(path string) (string, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return "", err
	}
	// The field's type differs between architectures, and the magic numbers use 32 bits.
	return networkFilesystems[int64(uint32(stat.Type))], nil
}
