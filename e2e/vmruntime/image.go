package vmruntime

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageService serves the ImageService. Every name is an image that can be
// pulled, and each of them is the same guest: a pull only remembers the name.
type imageService struct {
	cri.UnimplementedImageServiceServer
	*Runtime
}

func (s *imageService) PullImage(_ context.Context, req *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	name := withoutTag(req.GetImage().GetImage())
	if name == "" {
		return nil, fmt.Errorf("image %q has no name", req.GetImage().GetImage())
	}
	if err := s.store.setImage(name, true); err != nil {
		return nil, err
	}
	return &cri.PullImageResponse{ImageRef: imageID(name)}, nil
}

// ImageStatus answers with no image, not with an error, for one that was not
// pulled.
func (s *imageService) ImageStatus(_ context.Context, req *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	name, ok := s.find(req.GetImage().GetImage())
	if !ok {
		return &cri.ImageStatusResponse{}, nil
	}
	return &cri.ImageStatusResponse{Image: s.image(name)}, nil
}

func (s *imageService) ListImages(_ context.Context, req *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	wanted := req.GetFilter().GetImage().GetImage()
	var images []*cri.Image
	for _, name := range s.store.imageNames() {
		if wanted == "" || wanted == imageID(name) || withoutTag(wanted) == name {
			images = append(images, s.image(name))
		}
	}
	return &cri.ListImagesResponse{Images: images}, nil
}

func (s *imageService) RemoveImage(_ context.Context, req *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	if name, ok := s.find(req.GetImage().GetImage()); ok {
		if err := s.store.setImage(name, false); err != nil {
			return nil, err
		}
	}
	return &cri.RemoveImageResponse{}, nil
}

func (s *imageService) ImageFsInfo(context.Context, *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	if !s.era.imageFsInfo {
		return nil, fmt.Errorf("ImageFsInfo() %w", errNotImplemented)
	}
	images := uint64(len(s.store.imageNames()))
	return &cri.ImageFsInfoResponse{ImageFilesystems: []*cri.FilesystemUsage{{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &cri.FilesystemIdentifier{Mountpoint: s.o.StateDir},
		UsedBytes:  &cri.UInt64Value{Value: images * s.imageSize()},
		InodesUsed: &cri.UInt64Value{Value: images},
	}}}, nil
}

// find returns the name of a pulled image that is asked for by name or ID.
func (s *imageService) find(wanted string) (string, bool) {
	for _, name := range s.store.imageNames() {
		if wanted == imageID(name) || withoutTag(wanted) == name {
			return name, true
		}
	}
	return "", false
}

func (s *imageService) image(name string) *cri.Image {
	return &cri.Image{
		Id:          imageID(name),
		RepoTags:    []string{name + ":latest"},
		RepoDigests: []string{name + "@" + imageID(name)},
		Size:        s.imageSize(),
		Spec:        &cri.ImageSpec{Image: imageID(name)},
	}
}

// imageSize is that of the files which every virtual machine boots.
func (s *imageService) imageSize() uint64 {
	var size uint64
	for _, file := range []string{s.o.Guest.Kernel, s.o.Guest.Initrd} {
		if info, err := os.Stat(file); err == nil {
			size += uint64(info.Size())
		}
	}
	return size
}

// imageID returns the ID of an image by its name; an ID stays what it is.
func imageID(name string) string {
	if strings.HasPrefix(name, "sha256:") {
		return name
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(withoutTag(name))))
}

// withoutTag takes off the tag, which says nothing about a virtual machine,
// and the digest.
func withoutTag(name string) string {
	name, _, _ = strings.Cut(name, "@")
	slash := strings.LastIndexByte(name, '/')
	if i := strings.LastIndexByte(name, ':'); i > slash {
		return name[:i]
	}
	return name
}
