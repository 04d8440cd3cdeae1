r"""SRNET, a reconstruction: a wide residual network with skips around its groups as well.

Stacked layers have singularities, points at which a change of weights changes nothing: a unit whose incoming weights
are zero, or two units whose incoming weights agree. Learning slows down near them. A skip keeps a dead unit supplied
and gives equal units different inputs. This paper takes a wide residual network as its base and adds skips at several
levels, and asks how many are needed and where (Abstract).

WRN has three groups of blocks. A link of level k leads around k of them, so that there are three links of level 1, two
of level 2 and one of level 3. With :math:`x_0` behind the first convolution and G the groups of WRN,

.. math::  x_i = G_i(x_{i-1}) + \sum_{k=1}^{\min(i, K)} S_{i-k,i}\, x_{i-k}

where K is the highest level in use. S is the identity where shapes agree, else a strided 1x1 convolution, as in WRN's
own blocks. K = 0 is WRN itself, whose weights load.

R. Yasrab: "SRNET: A Shallow Skip Connection Based Convolutional Neural Network Design for Resolving Singularities",
Journal of Computer Science and Technology 34(4), 2019, pp. 924-938, doi:10.1007/s11390-019-1950-8.

**This is not the author's network.** No code was published, and only the abstract could be read. It names the base and
the data sets, and says that levels of skips were compared. Deviations from the paper, any of which may be one: depth 16
and width 8; links around whole groups; levels as above; addition; strided 1x1 convolutions of the input as it is,
without normalisation; WRN's initial values for them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification.wrn import WideResNet
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = ["SRNet", "objective", "srnet16_8_l1", "srnet16_8_l2", "srnet16_8_l3"]


class SRNet(WideResNet):
    """WRN for small pictures with links around its groups; everything but the links is WRN's.

    Args:
        depth: 6n + 4 layers of the chain.
        widen_factor: k, by which the widths 16, 32 and 64 are multiplied.
        levels: K, the most groups that a link leads around; 0 is WRN, 3 has all six links.
        drop_rate: dropout inside each block.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: levels that are not 0 to 3, or what WRN refuses.
    """

    def __init__(
        self,
        *,
        depth: int,
        widen_factor: int,
        levels: int,
        drop_rate: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__(
            depth=depth, widen_factor=widen_factor, drop_rate=drop_rate, num_classes=num_classes,
            in_channels=in_channels,
        )  # fmt: skip
        if levels not in (0, 1, 2, 3):
            raise ValueError(f"SRNet: levels must be 0, 1, 2 or 3, as there are three groups, got {levels}")
        self.levels = levels
        widths = (16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor)  # behind the stem and each group
        scales = (1, 1, 2, 4)
        self.links = nn.ModuleDict()  # "02" leads from x_0 to x_2
        for end in (1, 2, 3):
            for start in range(max(0, end - levels), end):
                same = widths[start] == widths[end] and scales[start] == scales[end]
                stride = scales[end] // scales[start]
                self.links[f"{start}{end}"] = (
                    nn.Identity() if same else nn.Conv2d(widths[start], widths[end], 1, stride=stride, bias=False)
                )
        for link in self.links.values():
            if isinstance(link, nn.Conv2d):
                nn.init.kaiming_normal_(link.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]. Any H and W; CIFAR has 32 x 32.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("SRNet", x, self.in_channels)
        maps = [self.conv0(x)]
        for end, group in enumerate((self.group0, self.group1, self.group2), 1):
            y = group(maps[-1])
            for start in range(max(0, end - self.levels), end):
                y = y + self.links[f"{start}{end}"](maps[start])  # the additional skips
            maps.append(y)
        x = F.relu(self.bn(maps[-1]), inplace=True)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


# WRN-16-8 with three links of level 1, five of levels 1 and 2, and all six.
srnet16_8_l1 = published(SRNet, depth=16, widen_factor=8, levels=1, free=["drop_rate"])
srnet16_8_l2 = published(SRNet, depth=16, widen_factor=8, levels=2, free=["drop_rate"])
srnet16_8_l3 = published(SRNet, depth=16, widen_factor=8, levels=3, free=["drop_rate"])
