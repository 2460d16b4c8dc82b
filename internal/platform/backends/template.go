package backends

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// template is the archive of a data folder that MariaDB has just initialised. Making one takes about half a second; unpacking one is a
// matter of milliseconds. It is kept per user in the temp folder of the system, one file for each build of the server and each set of
// settings that shape the files. One file and not a folder, because what cleans temp folders removes file by file.

// shape is what the files of a data folder depend on: a server must be started with what its folder was made with.
var shape = []string{
	"innodb-log-file-size=16M",
	"innodb-data-file-path=ibdata1:12M:autoextend",
	"innodb-temp-data-file-path=ibtmp1:12M:autoextend",
	"innodb-autoextend-increment=4",
	"character-set-server=utf8mb4",
}

// Run once over a new folder. Whoever comes over TCP is held to read_only, as a product's user is; root at the socket is not.
const firstStatements = `FLUSH PRIVILEGES;
REVOKE READ_ONLY ADMIN ON *.* FROM 'root'@'127.0.0.1';
REVOKE READ_ONLY ADMIN ON *.* FROM 'root'@'::1';
`

// cacheFolder outlives the process, so it is named after the user.
func cacheFolder() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("%scache-%d", folderPrefix, os.Getuid()))
}

// openCache makes the folder, and refuses one that another user could have filled.
func openCache() (string, error) {
	dir := cacheFolder()
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if !info.IsDir() || !mine(info) || info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s must be a folder of this user that nobody else can read or write; remove it", dir)
	}
	return dir, nil
}

// newData fills a new data folder.
func (k *keeper) newData(ctx context.Context, server, installer, data string) error {
	cache, err := openCache()
	if err != nil {
		return err
	}
	info, err := os.Stat(server)
	if err != nil {
		return err
	}
	h := fnv.New64a()
	fmt.Fprint(h, server, info.Size(), info.ModTime().UnixNano(), shape, firstStatements)
	archive := filepath.Join(cache, fmt.Sprintf("mariadb-%016x.tar", h.Sum64()))
	for try := range 2 {
		if !exists(archive) {
			if err := k.makeTemplate(ctx, installer, cache, archive); err != nil {
				return err
			}
		}
		if err = unpack(archive, data); err == nil {
			now := time.Now()
			_ = os.Chtimes(archive, now, now) // in use: spare it
			return nil
		}
		if try == 0 {
			_ = os.Remove(archive)
			_ = os.RemoveAll(data)
		}
	}
	return fmt.Errorf("unpacking %s: %w", archive, err)
}

// makeTemplate initialises a data folder and packs it. Of several processes that come at once, one does it and the others wait.
func (k *keeper) makeTemplate(ctx context.Context, installer, cache, archive string) error {
	for {
		lock, err := lockFile(filepath.Join(cache, "lock"))
		if err != nil {
			return err
		}
		if lock != nil {
			defer lock.Close()
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for another process that makes %s: %w", archive, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if exists(archive) {
		return nil
	}
	// Builds of other versions that nobody has used for a month, and what a killed maker left.
	found, _ := filepath.Glob(filepath.Join(cache, "*"))
	for _, f := range found {
		info, err := os.Stat(f)
		if err == nil && filepath.Base(f) != "lock" && (strings.HasSuffix(f, ".new") || time.Since(info.ModTime()) > 30*24*time.Hour) {
			_ = os.Remove(f)
		}
	}
	dir, err := k.folder(false)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	settings := filepath.Join(dir, "my.cnf")
	if err := os.WriteFile(settings, []byte("[mariadbd]\n"+strings.Join(shape, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	extra := filepath.Join(dir, "first.sql")
	if err := os.WriteFile(extra, []byte(firstStatements), 0o600); err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	args := []string{installer, "--defaults-file=" + settings, "--datadir=" + data, "--auth-root-authentication-method=normal",
		"--skip-test-db", "--skip-name-resolve", "--extra-file=" + extra}
	args = append(args, asUser()...)
	p, err := k.start("mariadb-install-db", installer, args, dir, filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return ctx.Err()
	}
	if p.err != nil {
		return fmt.Errorf("mariadb-install-db: %w; it said: %s", p.err, p.said())
	}
	if err := pack(data, archive+".new"); err != nil {
		return err
	}
	return os.Rename(archive+".new", archive)
}

// asUser: the server refuses root unless it is told so.
func asUser() []string {
	if os.Geteuid() == 0 {
		return []string{"--user=root"}
	}
	return nil
}

func pack(dir, archive string) (err error) {
	f, err := os.OpenFile(archive, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	return w.Close()
}

func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // no name in the archive leads out of the folder
	if err != nil {
		return err
	}
	defer root.Close()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.FromSlash(strings.TrimSuffix(h.Name, "/"))
		if h.Typeflag == tar.TypeDir {
			if err := root.MkdirAll(name, 0o700); err != nil {
				return err
			}
			continue
		}
		out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, r); err != nil {
			_ = out.Close()
			return err
		}
		if err := out.Close(); err != nil {
			return err
		}
	}
}
