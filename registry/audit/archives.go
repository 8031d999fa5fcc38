package audit

// Checkpoint is what a report without a problem proves.
func (r Report) Checkpoint() Checkpoint {
	c := Checkpoint{Origin: r.Origin, Size: r.Size}
	if r.Root != nil {
		c.Root = *r.Root
	}
	return c
}

// Cover counts the pruned entries of an export whose content archives have. The archives must have been verified, and the
// export against their checkpoints: then what they have is what was pruned. Missing is the first entry that is in none of
// them, -1 if there is none.
func (r *Report) Cover(archives []Report) (missing int64) {
	r.Archived = 0
	missing = -1
	for index := r.From; index < r.From+r.Pruned; {
		end := index
		for _, a := range archives {
			if a.From <= index && a.Pruned == 0 {
				end = max(end, min(a.Size, r.From+r.Pruned))
			}
		}
		if end > index {
			r.Archived += end - index
			index = end
			continue
		}
		if missing < 0 {
			missing = index
		}
		next := r.From + r.Pruned
		for _, a := range archives {
			if a.From > index {
				next = min(next, a.From)
			}
		}
		index = next
	}
	return missing
}

// NotArchived says that a pruned entry is in none of the archives.
func NotArchived(index int64) *Problem {
	return badEntry(index, "it was pruned, and is in none of the archives that were given; the log's entries of the kind %s name them", KindPruneLog)
}
