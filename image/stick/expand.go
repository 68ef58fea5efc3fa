package stick

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"gangway/device/install"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
)

// openFAT opens, for reading, a FAT32 file system that is stored without its zero blocks.
func openFAT(p install.Part, packed []byte) (fs.FS, error) {
	f, err := os.CreateTemp("", "gangway-part")
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	os.Remove(f.Name()) // the content remains readable until the file is closed
	if err := errors.Join(f.Truncate(p.Size), p.Unpack(packed, f)); err != nil {
		f.Close()
		return nil, fmt.Errorf("image: %w", err)
	}
	fat, err := fat32.Read(file.New(f, true), p.Size, 0, 512)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("image: reading the system's EFI system partition: %w", err)
	}
	return fat, nil
}
