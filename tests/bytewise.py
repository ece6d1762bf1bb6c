"""A tokenizer for toys: one token per byte, so letters of several bytes are split over tokens."""

from unmask.models.toy import EOS


class Bytes:
    """Some letters take several tokens."""

    chat_template = None
    table = "abcdefgh é€".encode() + "é€é€".encode()  # 24 bytes and more: the mask and EOS are never decoded

    def encode(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> list[int]:
        return [self.table.index(byte) for byte in text.encode()]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(self.table[token] for token in ids if token < EOS).decode(errors="replace")
