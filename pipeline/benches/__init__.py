"""What the library costs on the machine at hand: time, memory and bytes, each against a goal where there is one."""
