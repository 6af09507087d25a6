def pack_answer_reads(status: bytes, answers: bytes, serial_octets: bytes) -> bytes:
    """Complete two commands that end with a serial: the first with its hex digits, the second with its octets.

    ``status`` and ``answers`` are RESP arrays that lack their last bulk string. Raises ValueError for a serial of 5 000
    octets or more.
    """

def pack_answer_writes(answers: list[tuple[bytes, str, bytes]]) -> bytes:
    """Pack serial, its hex digits, status text and packed answer of each as RESP bulk strings, four for an answer."""
